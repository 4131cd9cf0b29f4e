/**
 * KV that lies on another rank than its heads. Ranks that are short of room for `kvBlocks` blocks of their own heads lend the highest
 * addresses to ranks that have room to spare; the lowest are used first, so nothing travels until own room is gone. Pure.
 */
import { isGpuLoan, type KvLoan } from '../../proto/domain/kv-residency.ts';

/** One rank of the group. */
export interface LoanRank {
  /** For KV: memory beside weights and whatever is reserved. */
  readonly roomBytes: number;
  readonly headGroups: number;
  /** Of attending for one head group: holders that do it quickly are taken first. */
  readonly contextSeconds: number;
}

export interface LoanShape {
  /** One block of one head group, all layers. */
  readonly blockBytes: number;
  /** Of what is on loan, at both ends: buffers beside it. */
  readonly bufferShare: number;
}

/** Processors exchange one layer of all that is on loan; GPUs go in turns, with buffers that do not grow with it and are reserved. */
export const loanBufferShare = (layers: number, blockTokens: number) =>
  isGpuLoan(blockTokens) ? 0 : 1 / layers;

export interface LoanPlan {
  readonly kvBlocks: number;
  /** By rank: addresses below are its own device's. */
  readonly ownBlocks: readonly number[];
  readonly loans: readonly KvLoan[];
  /** By rank: KV bytes on its device, own and held, all layers. */
  readonly storedBytes: readonly number[];
}

/**
 * The most blocks of its own that a rank can keep of `kvBlocks`; the others cost it buffers, in which the holder's answer may come. Null: not
 * even those fit.
 */
function ownBlocksOf(rank: LoanRank, { blockBytes, bufferShare }: LoanShape, kvBlocks: number) {
  const room = rank.headGroups === 0 ? kvBlocks : rank.roomBytes / (rank.headGroups * blockBytes);
  if (room >= kvBlocks) return kvBlocks;
  if (bufferShare === 1) return null;
  const own = Math.floor((room - kvBlocks * bufferShare) / (1 - bufferShare));
  return own >= 0 ? own : null;
}

/** Null when the ranks have not room for so many blocks. */
export function planLoans(
  ranks: readonly LoanRank[],
  shape: LoanShape,
  kvBlocks: number,
): LoanPlan | null {
  const { blockBytes, bufferShare } = shape;
  const ownBlocks: number[] = [];
  for (const rank of ranks) {
    const own = ownBlocksOf(rank, shape, kvBlocks);
    if (own === null) return null;
    ownBlocks.push(own);
  }
  const lends = (rank: number) => (ownBlocks[rank] as number) < kvBlocks;
  const storedBytes = ranks.map(
    ({ headGroups }, rank) => (ownBlocks[rank] as number) * headGroups * blockBytes,
  );
  const all = [...ranks.keys()];
  const holders = all
    .filter((rank) => !lends(rank))
    .sort((a, b) => (ranks[a]?.contextSeconds ?? 0) - (ranks[b]?.contextSeconds ?? 0));
  const spare = ranks.map(({ roomBytes }, rank) => roomBytes - (storedBytes[rank] as number));
  const loans: KvLoan[] = [];
  // Whose blocks are largest first: what they leave over still holds smaller ones.
  const owners = all.filter(lends).sort((a, b) => headsOf(ranks, b) - headsOf(ranks, a));
  for (const owner of owners) {
    const bytes = headsOf(ranks, owner) * blockBytes;
    const withBuffers = bytes * (1 + bufferShare);
    let begin = ownBlocks[owner] as number;
    for (const holder of holders) {
      const fitting = Math.floor((spare[holder] as number) / withBuffers);
      const end = Math.min(kvBlocks, begin + fitting);
      if (end <= begin) continue;
      loans.push({ owner, holder, blocks: { begin, end } });
      spare[holder] = (spare[holder] as number) - (end - begin) * withBuffers;
      storedBytes[holder] = (storedBytes[holder] as number) + (end - begin) * bytes;
      begin = end;
    }
    if (begin < kvBlocks) return null;
  }
  return { kvBlocks, ownBlocks, loans, storedBytes };
}

const headsOf = (ranks: readonly LoanRank[], rank: number) => ranks[rank]?.headGroups ?? 0;

/** Of what a rank could keep if it lent nothing. */
const ownShareMin = 1 / 2;

/** Buffers for what it lends leave every rank at least half of its room for blocks of its own. */
export function keepsHalf(
  ranks: readonly LoanRank[],
  { blockBytes }: LoanShape,
  plan: LoanPlan,
): boolean {
  return ranks.every(({ roomBytes, headGroups }, rank) => {
    const own = plan.ownBlocks[rank] as number;
    const most = Math.floor(roomBytes / (headGroups * blockBytes));
    return own >= plan.kvBlocks || own >= Math.floor(most * ownShareMin);
  });
}

/** With as many blocks as all rooms together hold, at most `blocksMax`, and as are accepted; null when not one is. What is refused must be so for more. */
export function largestLoans(
  ranks: readonly LoanRank[],
  shape: LoanShape,
  blocksMax = Number.POSITIVE_INFINITY,
  accepts: (plan: LoanPlan) => boolean = () => true,
): LoanPlan | null {
  const room = ranks.reduce((sum, { roomBytes }) => sum + Math.max(0, roomBytes), 0);
  const heads = ranks.reduce((sum, { headGroups }) => sum + headGroups, 0);
  let best: LoanPlan | null = null;
  let low = 0;
  let high = Math.min(blocksMax, Math.floor(room / (heads * shape.blockBytes))) + 1;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    const found = planLoans(ranks, shape, middle);
    if (found === null || !accepts(found)) high = middle;
    else [low, best] = [middle, found];
  }
  return best;
}
