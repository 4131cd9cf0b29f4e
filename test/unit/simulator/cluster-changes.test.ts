import { describe, expect, test } from 'vitest';
import type { ClusterChange } from '../../../controller/simulator/cluster-life.ts';
import type { PlanDevice } from '../../../proto/domain/plan.ts';
import { device } from '../planner/inputs.ts';
import { arrival, scenario, simulate } from './scenarios.ts';

/** One second a step whatever it holds; half of the model fits each, or all of it. */
const pair = (memoryBytes = 1e9): PlanDevice[] => [
  device('a', { constant: 1 }, { memoryBytes }),
  device('b', { constant: 1 }, { memoryBytes }),
];

const lost = (atSeconds: number, name: string): ClusterChange => ({
  type: 'worker-lost',
  atSeconds,
  device: name,
});
const joined = (atSeconds: number, name: string): ClusterChange => ({
  ...lost(atSeconds, name),
  type: 'worker-joined',
});

const run = (
  devices: PlanDevice[],
  trace: ReturnType<typeof arrival>[],
  changes: ClusterChange[],
) =>
  simulate(
    scenario(devices, trace, { cluster: { changes, noticeSeconds: 2, redeploySeconds: 3 } }),
  );

describe('a device that fails', () => {
  test('ends its epoch when it is noticed; the rest serves after the deployment', () => {
    const trace = [
      arrival(0, 4, 2), // done at 2
      arrival(5, 4, 20), // under way when b fails at 10
      arrival(11, 4, 1), // before the notice at 12: fails with the epoch
      arrival(13, 4, 1), // while a is deployed alone, until 15
      arrival(16, 4, 3), // served by a alone: 16 to 19
    ];
    const report = run(pair(), trace, [lost(10, 'b')]);
    expect(report.requests).toEqual({
      arrived: 5,
      completed: 2,
      refusedTooLong: 0,
      refusedOverloaded: 0,
      refusedNotReady: 1,
      failed: 2,
    });
    expect(report.epochs).toBe(2);
    expect(report.makespanSeconds).toBe(19);
    // 2 steps, then those answered at 6, 7, 8, 9 and 10, then 3 more.
    expect(report.outputTokens).toBe(2 + 5 + 3);
  });

  test('changes nothing when it took no part', () => {
    const devices = [...pair(), device('spare', { constant: 100 })];
    const trace = [arrival(0, 4, 30)];
    const options = scenario(devices, trace, { policy: 'hels' });
    expect(options.plan.ranks.some((rank) => rank.device === 'spare')).toBe(false);
    const cluster = { changes: [lost(10, 'spare')], noticeSeconds: 2, redeploySeconds: 3 };
    expect(simulate({ ...options, cluster })).toEqual(simulate(options));
  });

  test('that comes back before it is missed ends its old life at once', () => {
    const trace = [arrival(0, 4, 20), arrival(14.5, 4, 1)];
    const report = run(pair(), trace, [lost(10, 'b'), joined(11, 'b')]);
    // Deployed over both from 11 to 14.
    expect(report).toMatchObject({ epochs: 2, requests: { failed: 1, completed: 1 } });
    expect(report.ranks.map((rank) => rank.device)).toEqual(['a', 'b']);
  });
});

describe('devices that do not suffice', () => {
  /** Room for the half of the model (2032 bytes) and its KV, not for the whole (3904). */
  const small = () => pair(3000);

  test('the group waits, refuses, and serves again when one joins', () => {
    const trace = [arrival(5, 4, 8), arrival(20, 4, 1), arrival(34, 4, 1)];
    const report = run(small(), trace, [lost(10, 'b'), joined(30, 'b')]);
    expect(report.requests).toMatchObject({ failed: 1, refusedNotReady: 1, completed: 1 });
    expect(report.epochs).toBe(2);
    // From the first arrival at 5 to 35.
    expect(report.makespanSeconds).toBe(30);
  });

  test('a loss during the deployment starts another one', () => {
    const three = [...pair(), device('c', { constant: 1 })];
    const trace = [arrival(0, 4, 20), arrival(16.5, 4, 1), arrival(18, 4, 1)];
    // b is noticed at 12 and a and c deployed; c fails at 12.5 and is noticed at 14.5; a alone serves from 17.5.
    const report = run(three, trace, [lost(10, 'b'), lost(12.5, 'c')]);
    expect(report.requests).toMatchObject({ failed: 1, refusedNotReady: 1, completed: 1 });
    expect(report.epochs).toBe(2);
  });

  test('the same changes give the same report', () => {
    const trace = Array.from({ length: 20 }, (_, index) => arrival(index, 4, 5));
    const changes = [lost(3, 'a'), joined(9, 'a'), lost(14, 'b')];
    expect(run(small(), trace, changes)).toEqual(run(small(), trace, changes));
  });
});
