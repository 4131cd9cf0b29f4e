import { describe, expect, it } from 'vitest';
import { LeaseTrust } from '../../../controller/store/lease-trust.ts';

function trustOf(ttlMs: number) {
  let nowMs = 1_000;
  const clock = { nowMs: () => nowMs, unixMs: () => 0 };
  const trust = new LeaseTrust(ttlMs, clock, nowMs);
  const pass = (ms: number) => {
    nowMs += ms;
  };
  return { trust, pass };
}

describe('trust in a lease', () => {
  it('ends before the lease does, counted from when it was asked for', () => {
    const { trust, pass } = trustOf(10_000);
    pass(6_999);
    expect(trust.isOver).toBe(false);
    pass(1);
    expect(trust.isOver).toBe(true);
  });

  it('is prolonged from when a keepalive was sent, not from when its answer came', () => {
    const { trust, pass } = trustOf(10_000);
    trust.streamOpened();
    pass(3_000);
    trust.keepaliveSent();
    pass(2_000);
    trust.keepaliveAnswered();
    expect(trust.remainingMs).toBe(5_000);
  });

  it('is not prolonged by an old answer that was read late, after a stop of the process', () => {
    const { trust, pass } = trustOf(10_000);
    trust.streamOpened();
    pass(3_000);
    trust.keepaliveSent();
    pass(6_900);
    // Awake again: the next keepalive leaves before the old answer is read.
    trust.keepaliveSent();
    trust.keepaliveAnswered();
    expect(trust.remainingMs).toBeLessThanOrEqual(100);
  });

  it('does not come back once it is over', () => {
    const { trust, pass } = trustOf(10_000);
    pass(7_000);
    trust.keepaliveSent();
    trust.keepaliveAnswered();
    expect(trust.isOver).toBe(true);
  });

  it('does not count answers to what an earlier stream asked', () => {
    const { trust, pass } = trustOf(10_000);
    trust.keepaliveSent();
    pass(5_000);
    trust.streamOpened();
    trust.keepaliveAnswered();
    expect(trust.remainingMs).toBe(2_000);
    trust.keepaliveSent();
    trust.keepaliveAnswered();
    expect(trust.remainingMs).toBe(7_000);
  });
});
