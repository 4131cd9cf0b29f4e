import { describe, expect, it } from 'vitest';
import {
  allKept,
  canMigrate,
  deviceKindsOf,
  keptKvOf,
  keptRoomOf,
  migrationOf,
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
const gpus = kindsOf({ a: 'cuda', b: 'cuda', c: 'cpu', d: 'cuda' });

describe('KV that outlives its epoch', () => {
  it('moves when all that hold heads stay; who holds none may leave', () => {
    expect(canMigrate(former, next, gpus)).toBe(true);
    expect(canMigrate(next, former, gpus)).toBe(false);
  });

  it.each([
    ['blocks of another size', { kvBlockTokens: 64 }],
    ['nothing at home', { kvLoans: [{ owner: 0, holder: 1, blocks: { begin: 0, end: 6 } }] }],
  ])('is computed again with %s', (_, changes) => {
    expect(canMigrate(former, { ...next, ...changes }, gpus)).toBe(false);
  });

  it.each([
    ['a holder of another kind', { a: 'cpu', b: 'cuda', d: 'cuda' }],
    ['a newcomer of another kind', { a: 'cuda', b: 'cuda', d: 'cpu' }],
  ])('is computed again with %s', (_, kinds) => {
    expect(canMigrate(former, next, kindsOf(kinds))).toBe(false);
  });

  it('is wanted of those that hold heads alone', () => {
    expect(allKept(former, next, [true, false, true])).toBe(true);
    expect(allKept(former, next, [false, false, true])).toBe(false);
    expect(allKept(former, next, [])).toBe(false);
  });

  it('lies at home in both plans, whatever else is lent or parked', () => {
    expect(keptRoomOf([], former, next).blocks).toBe(6);
    const parking = { ...next, kvParkedBlocks: 3 };
    expect(keptRoomOf([], parking, former).blocks).toBe(6);
    const kvLoans = [{ owner: 2, holder: 1, blocks: { begin: 4, end: 6 } }];
    const ranks = next.ranks.map((rank, index) => ({
      ...rank,
      kvDeviceBlocks: index === 2 ? 4 : 9,
    }));
    const lending = { ...parking, kvLoans, ranks };
    expect(keptRoomOf([], former, lending).blocks).toBe(4);
    expect(keptRoomOf([], lending, former).blocks).toBe(4);
    expect(canMigrate(former, lending, gpus)).toBe(true);
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
    const kept = keptKvOf(held, keptRoomOf(held, parks, parksLess), 16);
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
      migrationOf(former, next, { blocks: [4, 0, 1, 5], parked: [{ from: 9, to: 6 }] }),
    ).toEqual({
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
    const { blocks, parked } = migrationOf(former, next, { blocks: [], parked: [] });
    expect([blocks, parked]).toEqual([[], []]);
  });
});
