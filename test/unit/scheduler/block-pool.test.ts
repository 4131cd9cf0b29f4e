import { describe, expect, it } from 'vitest';
import { BlockPool } from '../../../controller/scheduler/block-pool.ts';

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
    pool.checkIntegrity();
  });

  it('refuses to free what is not allocated', () => {
    const pool = new BlockPool(2);
    const blocks = pool.allocate(1);
    pool.free(blocks);
    expect(() => pool.free(blocks)).toThrow('is not allocated');
    expect(() => pool.free([7])).toThrow('KV block 7 is not allocated');
    pool.checkIntegrity();
  });
});
