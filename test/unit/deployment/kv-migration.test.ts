import { describe, expect, it } from 'vitest';
import {
  allKept,
  canMigrate,
  commonBlocks,
  deviceKindsOf,
  migrationOf,
} from '../../../controller/deployment/kv-migration.ts';
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
    ['parked addresses', { kvParkedBlocks: 1 }],
    ['loans', { kvLoans: [{ owner: 0, holder: 1, blocks: { begin: 1, end: 2 } }] }],
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

  it('is told by new rank, and by runs of the addresses that both plans have', () => {
    expect(commonBlocks(former, next)).toBe(6);
    expect(migrationOf(former, next, [7, 4, 0, 1, 5, 6])).toEqual({
      previousHeadGroups: [
        { begin: 5, end: 8 },
        { begin: 0, end: 0 },
        { begin: 0, end: 5 },
      ],
      blocks: [
        { begin: 0, end: 2 },
        { begin: 4, end: 6 },
      ],
    });
    expect(migrationOf(former, next, []).blocks).toEqual([]);
  });
});
