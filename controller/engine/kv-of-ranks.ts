/** Where the KV of a serving group is, told by rank. Pure. */
import type { KvResidency } from '../../proto/domain/kv-residency.ts';
import type { RankKvTokens } from '../metrics/residency-metrics.ts';

/** What the scheduler knows of addresses in use. */
interface KvInUse {
  readonly addresses: { readonly runnable: Iterable<number>; readonly parked: Iterable<number> };
  readonly droppedTokens: number;
}

/** Block tables are the same on all ranks: what differs is where an address lies. */
export function kvOfRanks(group: {
  readonly loop: { readonly scheduler: KvInUse };
  readonly residency: KvResidency;
  readonly workerIds: readonly string[];
}): RankKvTokens[] {
  const { residency, workerIds, loop } = group;
  const { kvBlockTokens, deviceBlocks } = residency;
  const { addresses, droppedTokens } = loop.scheduler;
  const runnable = [...addresses.runnable];
  const parked = [...addresses.parked].length * kvBlockTokens;
  return workerIds.map((workerId, rank) => {
    const own = runnable.filter((address) => address < (deviceBlocks[rank] ?? 0)).length;
    return {
      workerId,
      resident: own * kvBlockTokens,
      remote: (runnable.length - own) * kvBlockTokens,
      parked,
      dropped: droppedTokens,
    };
  });
}

/** Share of the computed tokens that had been computed before. */
export function taxOf(counts: { computedTokens: number; recomputedTokens: number }): number {
  return counts.computedTokens > 0 ? counts.recomputedTokens / counts.computedTokens : 0;
}
