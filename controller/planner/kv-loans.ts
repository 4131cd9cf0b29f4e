/**
 * KV that lies on another rank than its heads. Ranks that are short of room for `kvBlocks` blocks of their own heads lend the highest
 * addresses to ranks that have room to spare; the lowest are used first, so nothing travels until own room is gone. Pure.
 */
import type { KvLoan } from '../../proto/domain/kv-residency.ts';

/** One rank of the group. */
export interface LoanRank {
  /** For KV: memory beside weights and whatever is reserved. */
  readonly roomBytes: number;
  readonly headGroups: number;
  /** Of attending for one head group: holders that do it quickly are taken first. */
  readonly contextSeconds: number;
}

export interface LoanPlan {
  readonly kvBlocks: number;
  /** By rank: addresses below are its own device's. */
  readonly ownBlocks: readonly number[];
  readonly loans: readonly KvLoan[];
  /** By rank: KV bytes on its device, own and held, all layers. */
  readonly storedBytes: readonly number[];
}

/** As many blocks of its own as a rank has room for, of `kvBlocks`. Buffers for exchanges are reserved beside it, whatever it lends. */
function ownBlocksOf({ roomBytes, headGroups }: LoanRank, blockBytes: number, kvBlocks: number) {
  if (headGroups === 0) return kvBlocks;
  return Math.max(0, Math.min(kvBlocks, Math.floor(roomBytes / (headGroups * blockBytes))));
}

/** `blockBytes`: of one head group, all layers. Null when the ranks have not room for so many blocks. */
export function planLoans(
  ranks: readonly LoanRank[],
  blockBytes: number,
  kvBlocks: number,
): LoanPlan | null {
  const ownBlocks = ranks.map((rank) => ownBlocksOf(rank, blockBytes, kvBlocks));
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
    let begin = ownBlocks[owner] as number;
    for (const holder of holders) {
      const fitting = Math.floor((spare[holder] as number) / bytes);
      const end = Math.min(kvBlocks, begin + fitting);
      if (end <= begin) continue;
      loans.push({ owner, holder, blocks: { begin, end } });
      spare[holder] = (spare[holder] as number) - (end - begin) * bytes;
      storedBytes[holder] = (storedBytes[holder] as number) + (end - begin) * bytes;
      begin = end;
    }
    if (begin < kvBlocks) return null;
  }
  return { kvBlocks, ownBlocks, loans, storedBytes };
}

const headsOf = (ranks: readonly LoanRank[], rank: number) => ranks[rank]?.headGroups ?? 0;

/** With as many blocks as all rooms together hold, at most `blocksMax`, and as are accepted; null when not one is. What is refused must be so for more. */
export function largestLoans(
  ranks: readonly LoanRank[],
  blockBytes: number,
  blocksMax = Number.POSITIVE_INFINITY,
  accepts: (plan: LoanPlan) => boolean = () => true,
): LoanPlan | null {
  const room = ranks.reduce((sum, { roomBytes }) => sum + Math.max(0, roomBytes), 0);
  const heads = ranks.reduce((sum, { headGroups }) => sum + headGroups, 0);
  let best: LoanPlan | null = null;
  let low = 0;
  let high = Math.min(blocksMax, Math.floor(room / (heads * blockBytes))) + 1;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    const found = planLoans(ranks, blockBytes, middle);
    if (found === null || !accepts(found)) high = middle;
    else [low, best] = [middle, found];
  }
  return best;
}
