/** What KV on loan needs and costs in a decode step (docs/planner.md). Pure. */
import { loanBlockTokens } from '../../proto/domain/kv-residency.ts';
import { type LoanPlan, largestLoans } from './kv-loans.ts';
import type { Footprint, Problem, Share } from './problem.ts';
import type { RemoteKv } from './remote-workload.ts';
import { isUsed, weightBytes } from './share-bytes.ts';

/** The most KV that the used devices hold with loans; ranks are numbered by device of the problem. Null: none, or no loans allowed. */
export function loansOf(
  problem: Problem,
  shares: readonly Share[],
  blocksMax?: number,
): LoanPlan | null {
  const { remote, devices, footprint } = problem;
  if (remote === null) return null;
  const ranks = devices.map((device, index) => {
    const share = shares[index] as Share;
    const used = isUsed(share);
    return {
      roomBytes: used ? device.roomBytes - weightBytes(problem, share) : 0,
      headGroups: share.headGroups,
      contextSeconds: remote.contextSeconds[index] as number,
    };
  });
  if (ranks.some(({ roomBytes }) => roomBytes < 0)) return null;
  const wanted = Math.ceil(remote.residentTokens / loanBlockTokens);
  return largestLoans(ranks, loanShape(footprint, remote), blocksMax, wanted);
}

const loanShape = ({ kvPerTokenHeadGroup }: Footprint, { layers }: RemoteKv) => ({
  blockBytes: kvPerTokenHeadGroup * loanBlockTokens,
  layers,
});

/** What loans change in a decode step, by device. */
export interface RemoteSeconds {
  readonly fits: boolean;
  /** Attention that moves from owners to holders. */
  readonly attention: readonly number[];
  readonly link: readonly number[];
}

/** Null where loans are not allowed. */
export function remoteSecondsOf(problem: Problem, shares: readonly Share[]): RemoteSeconds | null {
  const { remote } = problem;
  if (remote === null) return null;
  const attention = shares.map(() => 0);
  const link = shares.map(() => 0);
  const plan = loansOf(problem, shares);
  const fits = plan !== null && plan.kvBlocks * loanBlockTokens >= remote.residentTokens;
  for (const { owner, holder, blocks } of plan?.loans ?? []) {
    const used = Math.min(blocks.end, remote.usedBlocks) - blocks.begin;
    if (used <= 0) continue;
    const { headGroups } = shares[owner] as Share;
    const share = used / remote.usedBlocks;
    attention[owner] = (attention[owner] ?? 0) - share * headGroups * contextOf(remote, owner);
    attention[holder] = (attention[holder] ?? 0) + share * headGroups * contextOf(remote, holder);
    const bytes = headGroups * (remote.queryBytes + used * remote.partBytes);
    for (const end of [owner, holder]) {
      // Every layer begins its exchanges once, whatever the number of loans.
      const begun = (link[end] as number) > 0 ? 0 : (remote.exchangeSeconds[end] as number);
      link[end] = (link[end] as number) + begun + bytes * (remote.secondsPerByte[end] as number);
    }
  }
  return { fits, attention, link };
}

const contextOf = ({ contextSeconds }: RemoteKv, device: number) =>
  contextSeconds[device] as number;
