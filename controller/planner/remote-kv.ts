/** What KV on loan needs and costs in a decode step (docs/planner.md). Pure. */
import { type LoanPlan, type LoanRank, largestLoans, planLoans } from './kv-loans.ts';
import type { Footprint, Problem, Share } from './problem.ts';
import type { RemoteKv } from './remote-workload.ts';
import { isUsed, weightBytes } from './share-bytes.ts';

/** Ranks are numbered by device of the problem. Null: the weights alone do not fit. */
function loanRanks(
  problem: Problem,
  { contextSeconds }: RemoteKv,
  shares: readonly Share[],
): LoanRank[] | null {
  const ranks = problem.devices.map((device, index) => {
    const share = shares[index] as Share;
    return {
      roomBytes: isUsed(share) ? device.roomBytes - weightBytes(problem, share) : 0,
      headGroups: share.headGroups,
      contextSeconds: contextSeconds[index] as number,
    };
  });
  return ranks.some(({ roomBytes }) => roomBytes < 0) ? null : ranks;
}

const blockBytesOf = ({ kvPerTokenHeadGroup }: Footprint, { blockTokens }: RemoteKv) =>
  kvPerTokenHeadGroup * blockTokens;

/** All KV that must be resident fits beside its heads, counted in tokens as where loans are not allowed. */
function fitsAtHome({ footprint }: Problem, { residentTokens }: RemoteKv, ranks: LoanRank[]) {
  const tokenBytes = residentTokens * footprint.kvPerTokenHeadGroup;
  return ranks.every(({ roomBytes, headGroups }) => headGroups * tokenBytes <= roomBytes);
}

/** What loans change in a decode step, by device. */
export interface RemoteSeconds {
  readonly fits: boolean;
  /** Attention that moves from owners to holders. */
  readonly attention: readonly number[];
  readonly link: readonly number[];
}

/** Null where loans are not allowed. `loans`: those to price; absent: just enough for the workload, none where it fits without. */
export function remoteSecondsOf(
  problem: Problem,
  shares: readonly Share[],
  loans?: LoanPlan,
): RemoteSeconds | null {
  const { remote, footprint } = problem;
  if (remote === null) return null;
  const attention = shares.map(() => 0);
  const link = shares.map(() => 0);
  let plan = loans ?? null;
  if (plan === null) {
    const ranks = loanRanks(problem, remote, shares);
    if (ranks === null) return { fits: false, attention, link };
    if (fitsAtHome(problem, remote, ranks)) return { fits: true, attention, link };
    plan = planLoans(ranks, blockBytesOf(footprint, remote), remote.usedBlocks);
  }
  for (const { owner, holder, blocks } of plan?.loans ?? []) {
    const used = Math.min(blocks.end, remote.usedBlocks) - blocks.begin;
    if (used <= 0) continue;
    const { headGroups } = shares[owner] as Share;
    const share = used / remote.usedBlocks;
    attention[owner] = (attention[owner] ?? 0) - share * headGroups * contextOf(remote, owner);
    attention[holder] = (attention[holder] ?? 0) + share * headGroups * contextOf(remote, holder);
    const bytes = headGroups * (remote.queryBytes + share * remote.answerBytes);
    for (const end of [owner, holder]) {
      // Every layer begins its exchanges once, whatever the number of loans. Turns, where answers do not fit the buffers, are not counted.
      const begun = (link[end] as number) > 0 ? 0 : (remote.exchangeSeconds[end] as number);
      link[end] = (link[end] as number) + begun + bytes * (remote.secondsPerByte[end] as number);
    }
  }
  return { fits: plan !== null && plan.kvBlocks >= remote.usedBlocks, attention, link };
}

const contextOf = ({ contextSeconds }: RemoteKv, device: number) =>
  contextSeconds[device] as number;

/**
 * The loans of a split: enough for the workload, and more while `secondsWith` them its step is at most `secondsMax`. Too few where there is
 * no room for it. Null: KV stays with its heads.
 */
export function chooseLoans(
  problem: Problem,
  shares: readonly Share[],
  secondsWith: (loans: LoanPlan) => number,
  secondsMax: number,
): LoanPlan | null {
  const { remote, footprint } = problem;
  const ranks = remote && loanRanks(problem, remote, shares);
  if (remote === null || ranks === null) return null;
  const blockBytes = blockBytesOf(footprint, remote);
  const { usedBlocks } = remote;
  const enough = planLoans(ranks, blockBytes, usedBlocks);
  // Whole blocks may take more room than the tokens in them, for which loans would cost what nothing gives back.
  if (fitsAtHome(problem, remote, ranks) && (enough === null || enough.loans.length > 0)) {
    return null;
  }
  if (enough === null) return largestLoans(ranks, blockBytes, usedBlocks);
  const more = largestLoans(
    ranks,
    blockBytes,
    Number.POSITIVE_INFINITY,
    (plan) => plan.kvBlocks <= usedBlocks || secondsWith(plan) <= secondsMax,
  );
  return more ?? enough;
}
