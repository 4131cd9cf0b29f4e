import { describe, expect, it } from 'vitest';
import { BlockPool } from '../../../controller/scheduler/block-pool.ts';
import type { BlockContent } from '../../../controller/scheduler/prefix-table.ts';

const content = (key: string, tokenIds: number[], parent: BlockContent | null = null) => ({
  key,
  parent,
  salt: '',
  tokenIds,
});

describe('block pool', () => {
  it('gives every block once and takes it back', () => {
    const pool = new BlockPool(4);
    const first = pool.allocate(3);
    const second = pool.allocate(1);
    expect([...first, ...second].sort()).toEqual([0, 1, 2, 3]);
    expect(pool.canAllocate(1)).toBe(false);
    expect(() => pool.allocate(1)).toThrow('1 KV blocks asked for, 0 free');
    pool.free(first);
    expect(pool.freeCount).toBe(3);
    expect(pool.usedCount).toBe(1);
    pool.checkIntegrity([second]);
  });

  it('refuses to free what is not allocated', () => {
    const pool = new BlockPool(2);
    const blocks = pool.allocate(1);
    pool.free(blocks);
    expect(() => pool.free(blocks)).toThrow('is not allocated');
    expect(() => pool.free([7])).toThrow('KV block 7 is not allocated');
    expect(() => pool.remember(0, content('k', [1]))).toThrow('is not allocated');
    pool.checkIntegrity([]);
  });

  it('keeps a block with content when nobody holds it, and counts it as free', () => {
    const pool = new BlockPool(2);
    const [block = -1] = pool.allocate(1);
    const known = content('k', [1, 2]);
    pool.remember(block, known);
    pool.free([block]);
    expect([pool.usedCount, pool.cachedCount, pool.freeCount]).toEqual([0, 1, 2]);
    expect(pool.find(content('k', [1, 2]))?.block).toBe(block);
    pool.share([block]);
    pool.share([block]);
    expect(pool.referencesOf(block)).toBe(2);
    pool.free([block]);
    expect(pool.cachedCount).toBe(0);
    pool.checkIntegrity([[block]]);
    expect(() => pool.checkIntegrity([[block], [block]])).toThrow('1 not as often as named');
    expect(() => pool.checkIntegrity([])).toThrow('0 are named');
  });

  it('counts a cached block that is wanted itself as taken', () => {
    const pool = new BlockPool(3);
    const [block = -1] = pool.allocate(1);
    pool.remember(block, content('k', [1]));
    pool.free([block]);
    expect(pool.canAllocate(3)).toBe(true);
    expect(pool.canAllocate(3, [block])).toBe(false);
    expect(pool.canAllocate(2, [block])).toBe(true);
  });

  it('evicts the block unused longest, of one sequence its end first', () => {
    const pool = new BlockPool(4);
    const old = pool.allocate(2);
    const young = pool.allocate(2);
    for (const [index, block] of old.entries())
      pool.remember(block, content(`old ${index}`, [index]));
    for (const [index, block] of young.entries())
      pool.remember(block, content(`young ${index}`, [index]));
    pool.free(old);
    pool.free(young);
    const taken = pool.allocate(3);
    expect(taken).toEqual([old[1], old[0], young[1]]);
    expect(pool.evicted).toBe(3);
    expect(pool.find(content('old 0', [0]))).toBeNull();
    expect(pool.find(content('young 0', [0]))?.block).toBe(young[0]);
    pool.checkIntegrity([taken]);
  });

  it('gives away cached blocks of every device before free ones that are on loan', () => {
    const pool = new BlockPool(5, [], 3);
    const local = pool.allocate(3);
    for (const block of local) pool.remember(block, content(`${block}`, [block]));
    pool.free(local);
    expect(pool.allocate(2)).toEqual([2, 1]);
    const rest = pool.allocate(3);
    expect(rest).toEqual([0, 3, 4]);
    expect([pool.evicted, pool.freeCount]).toEqual([3, 0]);
    const [lent = -1] = rest.splice(1, 1);
    pool.remember(lent, content('lent', [9]));
    pool.free([lent]);
    expect([pool.cachedCount, pool.canAllocate(1, [lent])]).toEqual([1, false]);
    expect(pool.allocate(1)).toEqual([lent]);
    pool.checkIntegrity([[0, 1, 2, 3, 4]]);
  });

  it('recalls a block on loan with what it says, into the room of what is only cached if need be', () => {
    const pool = new BlockPool(4, [], 2);
    const [first = -1, second = -1, lent = -1, other = -1] = pool.allocate(4);
    pool.remember(first, content('first', [1]));
    pool.remember(lent, content('lent', [2]));
    expect([lent, pool.isLent(lent), pool.isLent(second), pool.lentUsedCount]).toEqual([
      ...[2, true, false],
      2,
    ]);
    expect(() => pool.recall(lent, 1)).toThrow('KV block 2 cannot be recalled');
    pool.free([first]);
    expect(pool.recall(lent, 1)).toBe(first);
    expect(pool.find(content('first', [1]))).toBeNull();
    expect(pool.find(content('lent', [2]))?.block).toBe(first);
    pool.checkIntegrity([[first, second, lent, other]]);
    // The copy that is left says nothing, so it is free, not cached.
    pool.free([lent]);
    expect([pool.cachedCount, pool.lentUsedCount, pool.localFreeCount]).toEqual([0, 1, 0]);
    pool.share([first]);
    pool.free([second]);
    expect(() => pool.recall(first, 1)).toThrow('cannot be recalled');
    pool.checkIntegrity([[first, other], [first]]);
  });

  it('recalls a block that several hold for all of them', () => {
    const pool = new BlockPool(4, [], 2);
    const [first = -1, second = -1, lent = -1] = pool.allocate(3);
    pool.remember(lent, content('lent', [2]));
    pool.share([lent]);
    pool.free([second]);
    expect(() => pool.recall(lent, 1)).toThrow('cannot be recalled');
    expect(pool.recall(lent, 2)).toBe(second);
    // Held once more until it is moved.
    pool.checkIntegrity([[first, second], [second], [lent]]);
    pool.free([lent]);
    pool.free([second, second]);
    expect(pool.find(content('lent', [2]))?.block).toBe(second);
    pool.checkIntegrity([[first]]);
  });

  it('finds nothing when keys collide but tokens, a token before, or salts differ', () => {
    const pool = new BlockPool(2);
    const [first = -1, second = -1] = pool.allocate(2);
    const parent = content('k1', [1]);
    pool.remember(first, parent);
    pool.remember(second, content('k2', [2], parent));
    expect(pool.find(content('k2', [2], content('k1', [1])))?.block).toBe(second);
    expect(pool.find(content('k2', [3], parent))).toBeNull();
    expect(pool.find(content('k2', [2], content('k1', [9])))).toBeNull();
    expect(pool.find(content('k2', [2]))).toBeNull();
    expect(pool.find({ ...content('k1', [1]), salt: 'tenant' })).toBeNull();
    pool.checkIntegrity([[first, second]]);
  });
});
