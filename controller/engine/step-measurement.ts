/** What a step took, from the answers of its ranks. */
import type { StepLoad } from '../../proto/domain/step-load.ts';
import type { StepResponse__Output } from '../../proto/gen/hels/v1/StepResponse.ts';
import type { StepPlan } from '../scheduler/scheduler.ts';
import { stepLoadOf } from '../scheduler/step-load.ts';

export interface StepMeasurement {
  /** 0: the step only moved KV. */
  sequences: number;
  /** Every sequence gave one token. */
  decodeOnly: boolean;
  /** Sum over the tokens of the positions each attends to. */
  contextTokens: number;
  load: StepLoad;
  rankComputeSeconds: number[];
  /** In collectives, waiting for slower ranks included. */
  rankCollectiveSeconds: number[];
  /** Of the slowest rank, collectives included. */
  totalSeconds: number;
  moves: StepMoves;
  plan: StepPlan;
}

/** What a step did about KV that had made room. */
interface StepMoves {
  /** Moving blocks away and back, on the slowest rank. */
  seconds: number;
  /** Computed for the second time. */
  replayedTokens: number;
  computedTokens: number;
  /** By rank: exchanging about KV on loan. */
  rankRemoteSeconds: number[];
}

/** A sequence with one token decodes, one with more is a chunk of prefill; each token attends to all before it and to itself. */
export function measurementOf(
  plan: StepPlan,
  responses: readonly StepResponse__Output[],
): StepMeasurement {
  const load = stepLoadOf(plan);
  return {
    sequences: plan.sequences.length,
    decodeOnly: load.prefillTokens === 0,
    contextTokens: load.decodeContextTokens + load.prefillContextTokens,
    load,
    rankComputeSeconds: responses.map(({ computeSeconds }) => computeSeconds),
    rankCollectiveSeconds: responses.map(({ collectiveSeconds }) => collectiveSeconds),
    totalSeconds: Math.max(...responses.map(({ totalSeconds }) => totalSeconds)),
    moves: {
      seconds: Math.max(...responses.map(({ moveSeconds }) => moveSeconds)),
      replayedTokens: plan.replayedTokens,
      computedTokens: load.decodeTokens + load.prefillTokens,
      rankRemoteSeconds: responses.map(({ remoteSeconds }) => remoteSeconds),
    },
    plan,
  };
}
