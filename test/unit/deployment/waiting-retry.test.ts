import { expect, test } from 'vitest';
import { initialGroup } from '../../../controller/cluster/group.ts';
import { WaitingRetry } from '../../../controller/deployment/waiting-retry.ts';

test('a group is due when it has waited for its delay, counted anew each time that it waits', () => {
  const retry = new WaitingRetry();
  const waiting = { ...initialGroup(1), phase: 'waiting' as const, failures: 2 };
  const due = (nowMs: number) => retry.isDue(waiting, nowMs);
  expect([due(1_000), due(10_999), due(11_000), due(11_001)]).toEqual([false, false, true, false]);
  expect(retry.isDue({ ...waiting, phase: 'deploying' }, 30_000)).toBe(false);
  expect([due(40_000), due(49_999), due(50_000)]).toEqual([false, false, true]);
});
