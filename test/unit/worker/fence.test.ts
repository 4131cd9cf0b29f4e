import { describe, expect, it } from 'vitest';
import { compareFences, refuseStale, showFence, zeroFence } from '../../../worker/daemon/fence.ts';

const fence = (term: number, epoch: number) => ({ term, epoch });

describe('fences', () => {
  it('are ordered by term, then by epoch', () => {
    expect(compareFences(fence(1, 9), fence(2, 1))).toBeLessThan(0);
    expect(compareFences(fence(2, 1), fence(1, 9))).toBeGreaterThan(0);
    expect(compareFences(fence(2, 1), fence(2, 3))).toBeLessThan(0);
    expect(compareFences(fence(2, 3), fence(2, 3))).toBe(0);
    expect(compareFences(zeroFence, fence(0, 1))).toBeLessThan(0);
  });

  it('refuse what is older, naming both, and take what is equal or newer', () => {
    const newest = fence(2, 3);
    for (const older of [fence(2, 2), fence(1, 99), zeroFence]) {
      expect(() => refuseStale(older, newest)).toThrow(
        expect.objectContaining({
          code: 'stale-fence',
          field: 'fence',
          message: `fence ${showFence(older)} is older than (term 2, epoch 3), the newest this worker accepted`,
        }),
      );
    }
    for (const taken of [newest, fence(2, 4), fence(3, 0)]) refuseStale(taken, newest);
  });
});
