import type {
  HalfOpenRange,
  PlannedLoan,
  PlannedRank,
  PlanOutput,
} from '../../proto/domain/plan.ts';
import { bindingConstraint } from './binding-constraint.ts';
import { kvTokensOf } from './evaluate.ts';
import type { Problem, Share } from './problem.ts';
import type { Settled } from './settle-loans.ts';
import { isUsed, weightBytes } from './share-bytes.ts';

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
export type AssembledPlan = Pick<PlanOutput, 'ranks' | 'predicted' | 'kvLoans'>;

/** The same ranks with KV where loans put it; null where KV follows the heads. */
function withLoans(problem: Problem, { loans: plan }: Settled, ranks: readonly PlannedRank[]) {
  const blockTokens = problem.remote?.blockTokens;
  if (plan === null || blockTokens === undefined) return null;
  const idOf = (index: number) => problem.devices[index]?.id ?? '';
  const stored = new Map(plan.storedBytes.map((bytes, index) => [idOf(index), bytes]));
  const own = new Map(plan.ownBlocks.map((blocks, index) => [idOf(index), blocks]));
  const all = plan.storedBytes.reduce((sum, bytes) => sum + bytes, 0);
  const kvLoans: PlannedLoan[] = plan.loans.map(({ owner, holder, blocks }) => ({
    owner: idOf(owner),
    holder: idOf(holder),
    tokens: [blocks.begin * blockTokens, blocks.end * blockTokens],
  }));
  return {
    kvLoans,
    kvTokensTotal: plan.kvBlocks * blockTokens,
    ranks: ranks.map((rank) => {
      const kvBytes = stored.get(rank.device) ?? 0;
      const kvTokens = (own.get(rank.device) ?? 0) * blockTokens;
      return { ...rank, kvBytes, kvTokens, kvShare: all > 0 ? kvBytes / all : rank.kvShare };
    }),
  };
}

/** A rank without heads limits nothing: the least kvTokens of all ranks is what the least of those with heads is. */
function withGroupTokens(ranks: readonly PlannedRank[], kvTokensTotal: number): PlannedRank[] {
  return ranks.map((rank) => {
    const [begin, end] = rank.headGroups;
    return begin === end ? { ...rank, kvTokens: kvTokensTotal } : rank;
  });
}

/** Ranks (used devices only, in device order) with their ranges, bytes and KV room, and the predicted times. */
export function assemble(problem: Problem, candidate: Settled): AssembledPlan {
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
  const lent = withLoans(problem, candidate, ranks);
  if (lent !== null) kvTokensTotal = lent.kvTokensTotal;
  return {
    ranks: withGroupTokens(lent?.ranks ?? ranks, kvTokensTotal),
    ...(lent === null ? {} : { kvLoans: lent.kvLoans }),
    predicted: {
      decodeSeconds,
      prefillSeconds,
      perRankSeconds,
      kvTokensTotal,
      bindingConstraint: bindingConstraint(problem, candidate),
    },
  };
}
