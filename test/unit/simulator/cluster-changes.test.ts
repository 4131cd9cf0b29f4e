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

const waits = { heldSeconds: 300, returnWaitSeconds: 10, returnWaitingMax: 2 };
const times = { noticeSeconds: 2, redeploySeconds: 3, ...waits };

const run = (
  devices: PlanDevice[],
  trace: ReturnType<typeof arrival>[],
  changes: ClusterChange[],
) => simulate(scenario(devices, trace, { cluster: { changes, ...times } }));

describe('a device that fails', () => {
  test('ends its epoch when it is noticed; the rest goes on after the deployment', () => {
    const trace = [
      arrival(0, 4, 2), // done at 2
      arrival(5, 4, 20), // 5 tokens when b fails at 10; 15 more from 16 to 32, as 17 positions of three prompts take three steps
      arrival(11, 4, 1), // before the notice at 12: waits for a
      arrival(13, 4, 1), // while a is deployed alone, until 15: waits, too
      arrival(16, 4, 3), // served by a alone: 16 to 19
    ];
    const report = run(pair(), trace, [lost(10, 'b')]);
    expect(report.requests).toEqual({
      arrived: 5,
      completed: 5,
      refusedTooLong: 0,
      refusedOverloaded: 0,
      refusedNotReady: 0,
      failed: 0,
    });
    expect(report.epochs).toBe(2);
    expect(report.makespanSeconds).toBe(32);
    expect(report.outputTokens).toBe(2 + 20 + 1 + 1 + 3);
    // The prompt of 4 and the 5 tokens: the newest of them was under way when b failed.
    expect(report.recomputedTokens).toBe(9);
  });

  test('changes nothing when it took no part', () => {
    const devices = [...pair(), device('spare', { constant: 100 })];
    const trace = [arrival(0, 4, 30)];
    const options = scenario(devices, trace, { policy: 'hels' });
    expect(options.plan.ranks.some((rank) => rank.device === 'spare')).toBe(false);
    const cluster = { changes: [lost(10, 'spare')], ...times };
    expect(simulate({ ...options, cluster })).toEqual(simulate(options));
  });

  test('that comes back before it is missed ends its old life at once', () => {
    const trace = [arrival(0, 4, 20), arrival(14.5, 4, 1)];
    const report = run(pair(), trace, [lost(10, 'b'), joined(11, 'b')]);
    // Deployed over both from 11 to 14.
    expect(report).toMatchObject({ epochs: 2, requests: { failed: 0, completed: 2 } });
    expect(report.ranks.map((rank) => rank.device)).toEqual(['a', 'b']);
  });
});

describe('devices that do not suffice', () => {
  /** Room for the half of the model (2032 bytes) and its KV, not for the whole (3904). */
  const small = () => pair(3000);

  test('the group waits, refuses, and serves again when one joins', () => {
    const trace = [arrival(5, 4, 8), arrival(20, 4, 1), arrival(34, 4, 1)];
    const report = run(small(), trace, [lost(10, 'b'), joined(30, 'b')]);
    // The second comes 8 seconds after the loss was noticed, and waits for 2.
    expect(report.requests).toMatchObject({ failed: 0, refusedNotReady: 1, completed: 2 });
    expect(report.epochs).toBe(2);
    // From the first arrival at 5: 5 of its 8 tokens at 10, the rest from 33 to 37; the last at 38.
    expect(report.makespanSeconds).toBe(33);
  });

  test('those that come meanwhile wait as long as may be, and no more of them than may', () => {
    const trace = [12.5, 13, 14, 40].map((at) => arrival(at, 4, 1));
    const soon = run(small(), trace, [lost(10, 'b'), joined(18, 'b')]);
    expect(soon.requests).toMatchObject({ failed: 0, refusedOverloaded: 1, completed: 3 });
    const late = run(small(), [...trace, arrival(41, 4, 1)], [lost(10, 'b'), joined(43, 'b')]);
    const refused = { refusedNotReady: 4, refusedOverloaded: 1 };
    expect(late.requests).toMatchObject({ failed: 0, ...refused, completed: 0 });
  });

  test('nobody waits for longer than a request is held', () => {
    const { heldSeconds } = times;
    const trace = [arrival(5, 4, 8)];
    for (const [joinedAt, failed] of [
      [12 + heldSeconds - 4, 0],
      [12 + heldSeconds, 1],
    ] as const) {
      const report = run(small(), trace, [lost(10, 'b'), joined(joinedAt, 'b')]);
      expect(report.requests).toMatchObject({ failed, completed: 1 - failed });
    }
  });

  test('a request that is too long for those that are left fails', () => {
    // Both have KV of 62 positions, a alone has 16 beside the whole model.
    const trace = [arrival(5, 4, 40), arrival(6, 4, 8)];
    const report = run(pair(6000), trace, [lost(10, 'b')]);
    expect(report.requests).toMatchObject({ failed: 1, completed: 1 });
  });

  test('a loss during the deployment starts another one', () => {
    const three = [...pair(), device('c', { constant: 1 })];
    const trace = [arrival(0, 4, 20), arrival(16.5, 4, 1), arrival(18, 4, 1)];
    // b is noticed at 12 and a and c deployed; c fails at 12.5 and is noticed at 14.5; a alone serves from 17.5.
    const report = run(three, trace, [lost(10, 'b'), lost(12.5, 'c')]);
    expect(report.requests).toMatchObject({ failed: 0, refusedNotReady: 0, completed: 3 });
    expect(report.epochs).toBe(2);
  });

  test('the same changes give the same report', () => {
    const trace = Array.from({ length: 20 }, (_, index) => arrival(index, 4, 5));
    const changes = [lost(3, 'a'), joined(9, 'a'), lost(14, 'b')];
    expect(run(small(), trace, changes)).toEqual(run(small(), trace, changes));
  });
});
