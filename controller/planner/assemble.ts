import type { HalfOpenRange, PlannedRank, PlanOutput } from '../../proto/domain/plan.ts';
import { bindingConstraint } from './binding-constraint.ts';
import { type Candidate, isUsed, kvTokensOf, weightBytes } from './evaluate.ts';
import type { Problem, Share } from './problem.ts';

/** Hands out consecutive half-open ranges. */
class RangeCursor {
  #next = 0;

  take(count: number): HalfOpenRange {
    const begin = this.#next;
    this.#next += count;
    return [begin, this.#next];
  }
}

/** The part of a plan that follows from the split alone. */
export type AssembledPlan = Pick<PlanOutput, 'ranks' | 'predicted'>;

/** Ranks (used devices only, in device order) with their ranges, bytes and KV room, and the predicted times. */
export function assemble(problem: Problem, candidate: Candidate): AssembledPlan {
  const { evaluation } = candidate;
  const heads = new RangeCursor();
  const columns = new RangeCursor();
  const rows = new RangeCursor();
  const ranks: PlannedRank[] = [];
  const perRankSeconds: number[] = [];
  let kvTokensTotal = Number.POSITIVE_INFINITY;
  for (const [index, device] of problem.devices.entries()) {
    const share = evaluation.shares[index] as Share;
    if (!isUsed(share)) continue;
    const kvTokens = kvTokensOf(problem, device, share);
    if (kvTokens !== null) kvTokensTotal = Math.min(kvTokensTotal, kvTokens);
    ranks.push({
      device: device.id,
      headGroups: heads.take(share.headGroups),
      ffnColumns: columns.take(share.ffnColumns),
      vocabRows: rows.take(share.vocabRows),
      weightBytes: weightBytes(problem, share),
      kvBytes: (kvTokens ?? 0) * problem.footprint.kvPerTokenHeadGroup * share.headGroups,
      kvTokens: kvTokens ?? 0,
      kvShare: share.headGroups / problem.headGroups,
    });
    perRankSeconds.push(evaluation.deviceSeconds[index] as number);
  }
  const { decodeSeconds, prefillSeconds } = evaluation;
  return {
    ranks,
    predicted: {
      decodeSeconds,
      prefillSeconds,
      perRankSeconds,
      kvTokensTotal,
      bindingConstraint: bindingConstraint(problem, candidate),
    },
  };
}
