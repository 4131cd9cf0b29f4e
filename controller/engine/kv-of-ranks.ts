/** Where the KV of a serving group is, told by rank. Pure. */
import type { KvResidency } from '../../proto/domain/kv-residency.ts';
import type { RankKvTokens } from '../metrics/residency-metrics.ts';

/** What the scheduler knows of addresses in use. */
interface KvInUse {
  readonly addresses: { readonly runnable: Iterable<number>; readonly parked: Iterable<number> };
  readonly droppedTokens: number;
}

/** At each bound: how many of the addresses in use, all less than `total`, are less than it. There may be very many. */
function usedBelow(addresses: Iterable<number>, total: number): Uint32Array {
  const below = new Uint32Array(total + 1);
  for (const address of addresses) below[address + 1] = 1;
  for (let bound = 1; bound <= total; bound += 1) {
    below[bound] = (below[bound] as number) + (below[bound - 1] as number);
  }
  return below;
}

/** Block tables are the same on all ranks: what differs is where an address lies. A rank without heads has no KV of its own. */
export function kvOfRanks(group: {
  readonly loop: { readonly scheduler: KvInUse };
  readonly residency: KvResidency;
  readonly workerIds: readonly string[];
  /** By rank. */
  readonly headGroups: readonly number[];
}): RankKvTokens[] {
  const { residency, workerIds, headGroups, loop } = group;
  const { kvBlockTokens, deviceBlocks, loans } = residency;
  const { addresses, droppedTokens } = loop.scheduler;
  const total = residency.kvBlocks + residency.kvParkedBlocks;
  const runnable = usedBelow(addresses.runnable, total);
  const parked = usedBelow(addresses.parked, total);
  const tokensIn = (used: Uint32Array, begin: number, end = total) =>
    ((used[end] ?? 0) - (used[begin] ?? 0)) * kvBlockTokens;
  return workerIds.map((workerId, rank) => {
    const held = loans
      .filter(({ holder }) => holder === rank)
      .reduce((sum, { blocks }) => sum + tokensIn(runnable, blocks.begin, blocks.end), 0);
    if (headGroups[rank] === 0) {
      return { workerId, resident: 0, remote: 0, parked: 0, parkedInHost: 0, dropped: 0, held };
    }
    const own = deviceBlocks[rank] ?? 0;
    return {
      workerId,
      resident: tokensIn(runnable, 0, own),
      remote: tokensIn(runnable, own),
      parked: tokensIn(parked, 0),
      parkedInHost: tokensIn(parked, own),
      dropped: droppedTokens,
      held,
    };
  });
}

/** Share of the computed tokens that had been computed before. */
export function taxOf(counts: { computedTokens: number; recomputedTokens: number }): number {
  return counts.computedTokens > 0 ? counts.recomputedTokens / counts.computedTokens : 0;
}
