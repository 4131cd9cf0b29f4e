/** Whether, and which, KV of one epoch is worth more than its tokens in the next. Pure. */
import {
  type KvMove,
  localBlocksOf,
  placeOf,
  residencyOf,
} from '../../proto/domain/kv-residency.ts';
import type { KvMigration } from '../../proto/gen/hels/v1/KvMigration.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import {
  type HeldKv,
  type KeptRoom,
  keptOf,
  keptRoomFor,
  nothingKept,
} from '../scheduler/hand-over.ts';

type Interval = { begin: number; end: number } | null;
const isEmpty = (range: Interval) => range === null || range.end <= range.begin;
/** Of a rank's number. */
const workerOf = (plan: ShardPlan__Output, rank: number) => plan.ranks[rank]?.workerId;

/** What engines lay KV out for, by worker id. */
export function deviceKindsOf(
  workers: readonly { readonly id: string; readonly device: { readonly kind: string } }[],
): ReadonlyMap<string, string> {
  return new Map(workers.map(({ id, device }) => [id, device.kind]));
}

/** Nothing; what lies with its heads in both plans; or all, what is lent included. */
export type KvSurvival = 'none' | 'own' | 'all';

const stays = (next: ShardPlan__Output, workerId: string | undefined) =>
  next.ranks.some((rank) => rank.workerId === workerId);

/** Addresses below lie with their heads in both plans. */
const commonBlocks = (former: ShardPlan__Output, next: ShardPlan__Output) =>
  Math.min(localBlocksOf(residencyOf(former)), localBlocksOf(residencyOf(next)));

const ownSurvival = (former: ShardPlan__Output, next: ShardPlan__Output): KvSurvival =>
  commonBlocks(former, next) > 0 ? 'own' : 'none';

/**
 * Everybody with heads stays, and all devices that compute heads are of one kind: processors and GPUs lay KV out differently. What is
 * lent moves between processors, if its holders stay, too.
 */
export function survivalOf(
  former: ShardPlan__Output,
  next: ShardPlan__Output,
  kinds: ReadonlyMap<string, string>,
): KvSurvival {
  const owners = former.ranks.filter(({ headGroups }) => !isEmpty(headGroups));
  const computing = [...owners, ...next.ranks.filter(({ headGroups }) => !isEmpty(headGroups))];
  const [kind, other] = new Set(computing.map(({ workerId }) => kinds.get(workerId)));
  const sameBlocks = former.kvBlockTokens === next.kvBlockTokens && other === undefined;
  if (!sameBlocks || !owners.every(({ workerId }) => stays(next, workerId))) return 'none';
  const holdersStay = former.kvLoans.every(({ holder }) => stays(next, workerOf(former, holder)));
  return kind === 'cpu' && holdersStay ? 'all' : ownSurvival(former, next);
}

/** What of that has survived the loading: by new rank, what it still has. */
export function survivorsOf(
  survival: KvSurvival,
  former: ShardPlan__Output,
  next: ShardPlan__Output,
  prepared: readonly { readonly kvKept: boolean; readonly kvLoansKept: boolean }[],
): KvSurvival {
  const keptBy = (workerId: string | undefined) =>
    prepared[next.ranks.findIndex((candidate) => candidate.workerId === workerId)];
  const all = former.ranks.every(
    ({ workerId, headGroups }) => isEmpty(headGroups) || keptBy(workerId)?.kvKept === true,
  );
  if (!all) return 'none';
  const lent = former.kvLoans.every(({ holder }) => keptBy(workerOf(former, holder))?.kvLoansKept);
  return survival === 'all' && !lent ? ownSurvival(former, next) : survival;
}

/** Where KV of `held` can be in both plans. */
export function keptRoomOf(
  held: readonly HeldKv[],
  former: ShardPlan__Output,
  next: ShardPlan__Output,
  survival: KvSurvival,
): KeptRoom {
  if (survival === 'none') return nothingKept;
  const runnable = Math.min(former.kvBlocks, next.kvBlocks);
  const blocks = survival === 'all' ? runnable : commonBlocks(former, next);
  return keptRoomFor(held, blocks, former, next);
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
  survival: KvSurvival,
): KvMigration {
  const rankNow = (rank: number) =>
    next.ranks.findIndex(({ workerId }) => workerId === workerOf(former, rank));
  const loans = survival === 'all' ? former.kvLoans : [];
  return {
    previousHeadGroups: next.ranks.map(({ workerId }) => {
      const held = former.ranks.find((rank) => rank.workerId === workerId)?.headGroups;
      return { begin: held?.begin ?? 0, end: held?.end ?? 0 };
    }),
    previousLoans: loans.map(({ owner, holder, blocks }) => ({
      owner: rankNow(owner),
      holder: rankNow(holder),
      blocks,
    })),
    blocks: rangesOf(blocks),
    parked: [...parked],
  };
}

/** Blocks of one head group that come to each new rank from another worker. */
export function arrivingOf(
  former: ShardPlan__Output,
  next: ShardPlan__Output,
  { blocks, parked }: Pick<KeptKv, 'blocks' | 'parked'>,
): number[] {
  const arriving = next.ranks.map(() => 0);
  const [before, now] = [residencyOf(former), residencyOf(next)];
  for (const [owner, { headGroups: held }] of former.ranks.entries()) {
    for (const [heir, { headGroups: heirs }] of next.ranks.entries()) {
      const groups =
        Math.min(held?.end ?? 0, heirs?.end ?? 0) - Math.max(held?.begin ?? 0, heirs?.begin ?? 0);
      if (groups <= 0) continue;
      const count = (sender: number, receiver: number, times: number) => {
        if (workerOf(former, sender) === workerOf(next, receiver)) return;
        arriving[receiver] = (arriving[receiver] ?? 0) + groups * times;
      };
      for (const block of blocks) {
        count(placeOf(before, owner, block), placeOf(now, heir, block), 1);
      }
      count(owner, heir, parked.length);
    }
  }
  return arriving;
}
