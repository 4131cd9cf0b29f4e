/** Where the KV of a serving group is, told by rank. Pure. */
import type { KvResidency } from '../../proto/domain/kv-residency.ts';
import type { RankKvTokens } from '../metrics/residency-metrics.ts';

/** What the scheduler knows of addresses in use. */
interface KvInUse {
  readonly addresses: { readonly runnable: Iterable<number>; readonly parked: Iterable<number> };
  readonly droppedTokens: number;
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
  const [runnable, parked] = [[...addresses.runnable], [...addresses.parked]];
  const tokensIn = (used: readonly number[], begin: number, end = Number.POSITIVE_INFINITY) =>
    used.filter((address) => address >= begin && address < end).length * kvBlockTokens;
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
