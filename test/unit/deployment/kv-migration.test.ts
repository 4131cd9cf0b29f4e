import { describe, expect, it } from 'vitest';
import {
  arrivingOf,
  deviceKindsOf,
  keptKvOf,
  keptRoomOf,
  migrationOf,
  survivalOf,
  survivorsOf,
} from '../../../controller/deployment/kv-migration.ts';
import { nothingKept } from '../../../controller/scheduler/hand-over.ts';
import { Sequence } from '../../../controller/scheduler/sequence.ts';
import { requestOf } from '../../support/generation-requests.ts';
import { shardPlan } from '../../support/shard-plan.ts';

const former = shardPlan([
  { workerId: 'a', headGroups: [0, 5] },
  { workerId: 'b', headGroups: [5, 8] },
  { workerId: 'c', headGroups: [8, 8] },
]);
const next = shardPlan(
  [
    { workerId: 'b', headGroups: [0, 2] },
    { workerId: 'd', headGroups: [2, 3] },
    { workerId: 'a', headGroups: [3, 8] },
  ],
  { kvBlocks: 6 },
);

const kindsOf = (kinds: Readonly<Record<string, string>>) =>
  deviceKindsOf(Object.entries(kinds).map(([id, kind]) => ({ id, device: { kind } })));
const cpus = kindsOf({ a: 'cpu', b: 'cpu', c: 'cpu', d: 'cpu' });
const gpus = kindsOf({ a: 'cuda', b: 'cuda', c: 'cpu', d: 'cuda' });

/** Rank 2, 'a', lends its last two blocks to rank 0, 'b'. */
const lending = {
  ...next,
  kvParkedBlocks: 3,
  kvLoans: [{ owner: 2, holder: 0, blocks: { begin: 4, end: 6 } }],
  ranks: next.ranks.map((rank, index) => ({ ...rank, kvDeviceBlocks: index === 2 ? 4 : 9 })),
};

describe('KV that outlives its epoch', () => {
  it('moves when all that hold heads stay; who holds none may leave', () => {
    expect(survivalOf(former, next, gpus)).toBe('own');
    expect(survivalOf(former, next, cpus)).toBe('all');
    expect(survivalOf(next, former, cpus)).toBe('none');
  });

  it.each([
    ['blocks of another size', { kvBlockTokens: 64 }],
    ['nothing at home', { kvLoans: [{ owner: 0, holder: 1, blocks: { begin: 0, end: 6 } }] }],
  ])('is computed again with %s', (_, changes) => {
    expect(survivalOf(former, { ...next, ...changes }, gpus)).toBe('none');
  });

  it.each([
    ['a holder of another kind', { a: 'cpu', b: 'cuda', d: 'cuda' }],
    ['a newcomer of another kind', { a: 'cuda', b: 'cuda', d: 'cpu' }],
  ])('is computed again with %s', (_, kinds) => {
    expect(survivalOf(former, next, kindsOf(kinds))).toBe('none');
  });

  it('is wanted of those that hold heads alone', () => {
    const kept = { kvKept: true, kvLoansKept: false };
    const lost = { kvKept: false, kvLoansKept: false };
    expect(survivorsOf('all', former, next, [kept, lost, kept])).toBe('all');
    expect(survivorsOf('own', former, next, [kept, lost, kept])).toBe('own');
    expect(survivorsOf('all', former, next, [lost, lost, kept])).toBe('none');
    expect(survivorsOf('all', former, next, [])).toBe('none');
    expect(survivorsOf('none', former, next, [kept, kept, kept])).toBe('none');
  });

  it('lies at home in both plans, whatever else is lent or parked', () => {
    expect(keptRoomOf([], former, next, 'own').blocks).toBe(6);
    expect(keptRoomOf([], former, next, 'none').blocks).toBe(0);
    const parking = { ...next, kvParkedBlocks: 3 };
    expect(keptRoomOf([], parking, former, 'own').blocks).toBe(6);
    expect(keptRoomOf([], former, lending, 'own').blocks).toBe(4);
    expect(keptRoomOf([], lending, former, 'own').blocks).toBe(4);
    expect(survivalOf(former, lending, gpus)).toBe('own');
  });

  it('may be lent, where holders stay and have kept it', () => {
    expect(survivalOf(former, lending, cpus)).toBe('all');
    expect(keptRoomOf([], former, lending, 'all').blocks).toBe(6);
    // d, without heads of its own, holds the last blocks of a.
    const held = shardPlan(
      [
        { workerId: 'a', headGroups: [0, 5] },
        { workerId: 'b', headGroups: [5, 8] },
        { workerId: 'd', headGroups: [8, 8] },
      ],
      { kvLoans: [{ owner: 0, holder: 2, blocks: { begin: 3, end: 8 } }] },
    );
    held.ranks[0] = { ...held.ranks[0], kvDeviceBlocks: 3 } as never;
    expect(survivalOf(held, next, cpus)).toBe('all');
    expect(survivalOf(held, former, cpus)).toBe('own');
    expect(keptRoomOf([], held, former, 'own').blocks).toBe(3);
    const [all, own] = [
      { kvKept: true, kvLoansKept: true },
      { kvKept: true, kvLoansKept: false },
    ];
    expect(survivorsOf('all', held, next, [own, all, own])).toBe('all');
    expect(survivorsOf('all', held, next, [all, own, all])).toBe('own');
  });

  it('comes from where it lay to where it will lie', () => {
    // a: 0 to 4, b: 5 to 7; then b: 0 and 1, d: 2, a: 3 to 7, of which b holds the blocks 4 and 5.
    const kept = { blocks: [0, 4, 5], parked: [{ from: 8, to: 6 }] };
    expect(arrivingOf(former, next, kept)).toEqual([2 * 4, 4, 3 * 4]);
    expect(arrivingOf(former, lending, kept)).toEqual([2 * 4 + 2 * 2, 4, 3 * 2]);
    expect(arrivingOf(lending, lending, kept)).toEqual([0, 0, 0]);
  });

  it('is told with the loans of before, by new rank', () => {
    const { previousLoans } = migrationOf(lending, former, { blocks: [5], parked: [] }, 'all');
    expect(previousLoans).toEqual([{ owner: 0, holder: 1, blocks: { begin: 4, end: 6 } }]);
    const own = migrationOf(lending, former, { blocks: [3], parked: [] }, 'own');
    expect(own.previousLoans).toEqual([]);
  });

  it('is a leading part of each table: what comes after a block that is left behind is of no use', () => {
    const holding = (blocks: number[], computed: number) =>
      Object.assign(new Sequence(requestOf('any', 1, 1), 1), { blocks, computed });
    const waiting = (blocks: number[], parked: number[], computed: number) =>
      Object.assign(holding(blocks, computed), { parked, parkedFrom: blocks.length });
    const held = [
      holding([3, 5, 2], 44),
      holding([3, 2, 0], 33),
      holding([], 0),
      waiting([1], [15, 8], 40),
      waiting([7], [9], 20),
      waiting([], [10, 13, 11], 46),
    ];
    const [parks, parksLess] = [
      { ...former, kvParkedBlocks: 8 },
      { ...next, kvBlocks: 5, kvParkedBlocks: 4 },
    ];
    const kept = keptKvOf(held, keptRoomOf(held, parks, parksLess, 'own'), 16);
    expect(kept.sequences).toEqual([
      { computed: 44, kept: 16 },
      { computed: 33, kept: 33 },
      { computed: 0, kept: 0 },
      { computed: 40, kept: 40 },
      { computed: 20, kept: 0 },
      { computed: 46, kept: 32 },
    ]);
    expect(kept.blocks.toSorted()).toEqual([0, 1, 2, 3]);
    // 8 and 10 are as far behind the runnable ones as before; for the others there is no such address any more.
    expect(kept.parked).toEqual([
      { from: 15, to: 6 },
      { from: 8, to: 5 },
      { from: 10, to: 7 },
      { from: 13, to: 8 },
    ]);
    const none = keptKvOf(held, nothingKept, 16);
    expect([...none.blocks, ...none.parked]).toEqual([]);
  });

  it('is told by new rank, and by runs of addresses', () => {
    expect(
      migrationOf(former, next, { blocks: [4, 0, 1, 5], parked: [{ from: 9, to: 6 }] }, 'own'),
    ).toEqual({
      previousLoans: [],
      previousHeadGroups: [
        { begin: 5, end: 8 },
        { begin: 0, end: 0 },
        { begin: 0, end: 5 },
      ],
      blocks: [
        { begin: 0, end: 2 },
        { begin: 4, end: 6 },
      ],
      parked: [{ from: 9, to: 6 }],
    });
    const { blocks, parked } = migrationOf(former, next, { blocks: [], parked: [] }, 'own');
    expect([blocks, parked]).toEqual([[], []]);
  });
});
