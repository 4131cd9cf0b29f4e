/** Whether, and which, KV of one epoch is worth more than its tokens in the next. Pure. */
import { type KvMove, localBlocksOf, residencyOf } from '../../proto/domain/kv-residency.ts';
import type { KvMigration } from '../../proto/gen/hels/v1/KvMigration.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import { type HeldKv, type KeptRoom, keptOf, keptRoomFor } from '../scheduler/hand-over.ts';

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

/** Addresses below this mean the same in both, and lie with their heads. */
function commonBlocks(former: ShardPlan__Output, next: ShardPlan__Output): number {
  return Math.min(localBlocksOf(residencyOf(former)), localBlocksOf(residencyOf(next)));
}

/** Where KV of `held` can be in both plans. What is lent is computed again. */
export function keptRoomOf(
  held: readonly HeldKv[],
  former: ShardPlan__Output,
  next: ShardPlan__Output,
): KeptRoom {
  return keptRoomFor(held, commonBlocks(former, next), former, next);
}

/** What of the requests' KV goes on living. */
export interface KeptKv {
  /** Positions with KV, by request, and those of them that keep it. */
  readonly sequences: readonly { readonly computed: number; readonly kept: number }[];
  /** Where it lies; each runnable address once, though several may read it. */
  readonly blocks: readonly number[];
  /** Parked blocks, from an address of the plan before to one of the next. */
  readonly parked: readonly KvMove[];
}

/** Of `held`, by request. */
export function keptKvOf(held: readonly HeldKv[], room: KeptRoom, blockTokens: number): KeptKv {
  const blocks = new Set<number>();
  const sequences = held.map((one) => {
    const kept = keptOf(one, room, blockTokens);
    for (const block of one.blocks.slice(0, kept.blocks)) blocks.add(block);
    return { computed: one.computed, kept: kept.positions };
  });
  const parked = Array.from(room.parked, ([from, to]) => ({ from, to }));
  return { sequences, blocks: [...blocks], parked };
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

export function migrationOf(
  former: ShardPlan__Output,
  next: ShardPlan__Output,
  { blocks, parked }: Pick<KeptKv, 'blocks' | 'parked'>,
): KvMigration {
  return {
    previousHeadGroups: next.ranks.map(({ workerId }) => {
      const held = former.ranks.find((rank) => rank.workerId === workerId)?.headGroups;
      return { begin: held?.begin ?? 0, end: held?.end ?? 0 };
    }),
    blocks: rangesOf(blocks),
    parked: [...parked],
  };
}
