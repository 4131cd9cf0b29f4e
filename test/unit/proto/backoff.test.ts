import { describe, expect, it } from 'vitest';
import { backoffDelayMs } from '../../../proto/base/backoff.ts';

describe('the backoff', () => {
  it('doubles up to its bound', () => {
    const delays = [0, 1, 2, 3, 4, 5, 1_000_000].map((attempt) => backoffDelayMs(attempt, 1));
    expect(delays).toEqual([200, 400, 800, 1_600, 2_000, 2_000, 2_000]);
  });

  it('is half chance, so that many workers do not come together', () => {
    expect(backoffDelayMs(0, 0)).toBe(100);
    expect(backoffDelayMs(0, 0.5)).toBe(150);
    expect(backoffDelayMs(20, 0)).toBe(1_000);
  });
});
