/** Whether, and which, KV of one epoch is worth more than its tokens in the next. Pure. */
import { localBlocksOf, residencyOf } from '../../proto/domain/kv-residency.ts';
import type { KvMigration } from '../../proto/gen/hels/v1/KvMigration.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import { type HeldKv, keptOf } from '../scheduler/hand-over.ts';

type Interval = { begin: number; end: number } | null;
const isEmpty = (range: Interval) => range === null || range.end <= range.begin;

/** What engines lay KV out for, by worker id. */
export function deviceKindsOf(
  workers: readonly { readonly id: string; readonly device: { readonly kind: string } }[],
): ReadonlyMap<string, string> {
  return new Map(workers.map(({ id, device }) => [id, device.kind]));
}

/** Everybody with KV stays, and all devices that compute heads are of one kind: processors and GPUs lay KV out differently. */
export function canMigrate(
  former: ShardPlan__Output,
  next: ShardPlan__Output,
  kinds: ReadonlyMap<string, string>,
): boolean {
  const computing = [...former.ranks, ...next.ranks].filter((rank) => !isEmpty(rank.headGroups));
  const staying = new Set(next.ranks.map(({ workerId }) => workerId));
  return (
    former.kvBlockTokens === next.kvBlockTokens &&
    commonBlocks(former, next) > 0 &&
    new Set(computing.map(({ workerId }) => kinds.get(workerId))).size <= 1 &&
    former.ranks.every(({ workerId, headGroups }) => isEmpty(headGroups) || staying.has(workerId))
  );
}

/** Whether each worker that computed heads still has their KV. `kept` by new rank. */
export function allKept(
  former: ShardPlan__Output,
  next: ShardPlan__Output,
  kept: readonly boolean[],
): boolean {
  return former.ranks.every(({ workerId, headGroups }) => {
    const rank = next.ranks.findIndex((candidate) => candidate.workerId === workerId);
    return isEmpty(headGroups) || kept[rank] === true;
  });
}

/** Addresses below this mean the same in both: KV there lies on the device of its heads. What is lent or parked is computed again. */
export function commonBlocks(former: ShardPlan__Output, next: ShardPlan__Output): number {
  return Math.min(localBlocksOf(residencyOf(former)), localBlocksOf(residencyOf(next)));
}

/** What of the requests' KV goes on living. */
export interface KeptKv {
  /** Positions with KV, by request, and those of them that keep it. */
  readonly sequences: readonly { readonly computed: number; readonly kept: number }[];
  /** Where it lies; each address once, though several may read it. */
  readonly addresses: readonly number[];
}

/** Of `held`, by request, below `keptBlocks`. */
export function keptKvOf(held: readonly HeldKv[], keptBlocks: number, blockTokens: number): KeptKv {
  const kept = held.map((one) => keptOf(one, keptBlocks, blockTokens));
  const addresses = held.flatMap(({ blocks }, index) => blocks.slice(0, kept[index]?.blocks ?? 0));
  const sequences = held.map(({ computed }, index) => ({
    computed,
    kept: kept[index]?.positions ?? 0,
  }));
  return { sequences, addresses: [...new Set(addresses)] };
}

/** Runs of consecutive addresses, ascending. */
function rangesOf(addresses: readonly number[]): { begin: number; end: number }[] {
  const ranges: { begin: number; end: number }[] = [];
  for (const address of addresses.toSorted((left, right) => left - right)) {
    const last = ranges.at(-1);
    if (last?.end === address) last.end += 1;
    else ranges.push({ begin: address, end: address + 1 });
  }
  return ranges;
}

/** `addresses`: those that keep their KV, each once. */
export function migrationOf(
  former: ShardPlan__Output,
  next: ShardPlan__Output,
  addresses: readonly number[],
): KvMigration {
  return {
    previousHeadGroups: next.ranks.map(({ workerId }) => {
      const held = former.ranks.find((rank) => rank.workerId === workerId)?.headGroups;
      return { begin: held?.begin ?? 0, end: held?.end ?? 0 };
    }),
    blocks: rangesOf(addresses),
  };
}
