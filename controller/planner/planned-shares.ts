import type { HalfOpenRange, PlanInput, PlannedRank, PlanOutput } from '../../proto/domain/plan.ts';
import { evaluateShares } from './evaluate.ts';
import { groupSeconds } from './lockstep.ts';
import { compileProblem, type Share } from './problem.ts';
import { rankSeconds } from './step-seconds.ts';

const lengthOf = ([begin, end]: HalfOpenRange): number => end - begin;

type PlannedRanges = Pick<PlannedRank, 'device' | 'headGroups' | 'ffnColumns' | 'vocabRows'>;

/** Predicted decode seconds of ranks at another load or on other lines than they were planned for. */
export function plannedDecodeSeconds(input: PlanInput, ranks: readonly PlannedRanges[]): number {
  return evaluateShares(compileProblem(input), plannedShares(input, { ranks })).decodeSeconds;
}

/** What a plan gives to each device of its input, in their order; nothing to those that it leaves out. */
export function plannedShares(
  input: PlanInput,
  plan: { readonly ranks: readonly PlannedRanges[] },
): Share[] {
  const ranks = new Map(plan.ranks.map((rank) => [rank.device, rank]));
  return input.devices.map(({ id }) => {
    const rank = ranks.get(id);
    if (rank === undefined) return { headGroups: 0, ffnColumns: 0, vocabRows: 0 };
    return {
      headGroups: lengthOf(rank.headGroups),
      ffnColumns: lengthOf(rank.ffnColumns),
      vocabRows: lengthOf(rank.vocabRows),
    };
  });
}

/**
 * Seconds from the arrival of a prompt at an idle group to its first token: the prefill steps of its chunks, each at the context that it
 * attends to (token i of the prompt attends to i tokens). Queueing, tokenization and the controller are not in it.
 */
export function timeToFirstTokenSeconds(
  input: PlanInput,
  plan: Pick<PlanOutput, 'ranks'>,
  promptTokens: number,
): number {
  const shares = plannedShares(input, plan);
  const { prefillChunk } = input.workload;
  const lockstep = input.objective === 'lockstep';
  let seconds = 0;
  for (let start = 0; start < promptTokens; start += prefillChunk) {
    const prefillTokens = Math.min(prefillChunk, promptTokens - start);
    const prefillContextTokens = prefillTokens * start + (prefillTokens * (prefillTokens + 1)) / 2;
    const load = { decodeTokens: 0, decodeContextTokens: 0, prefillTokens, prefillContextTokens };
    const ranks = rankSeconds(input, shares, load).filter((rank) => rank !== null);
    seconds += groupSeconds(ranks, lockstep);
  }
  return seconds;
}
