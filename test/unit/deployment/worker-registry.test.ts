/** The registered workers by a clock of the test. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { WorkerRegistry } from '../../../controller/deployment/worker-registry.ts';
import type { HeartbeatRequest__Output } from '../../../proto/gen/hels/v1/HeartbeatRequest.ts';
import { madeUpDevice } from '../cluster/made-up-device.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function site() {
  const lost: string[] = [];
  let stoodMs = 0;
  const nowMs = () => performance.now() + stoodMs;
  const log = { info: () => undefined };
  const registry = new WorkerRegistry(1, { nowMs, unixMs: nowMs }, log as never, () => undefined);
  registry.connect(
    { workerJoined: () => undefined, workerLost: (id) => lost.push(id) },
    () => false,
  );
  const join = (id: string) => {
    const worker = { incarnation: `${id}1`, address: 'host:1', version: '1', device: madeUpDevice };
    registry.register({ workerId: id, ...worker });
  };
  const beat = (id: string) => {
    const heartbeat = { workerId: id, incarnation: `${id}1`, progress: 0, memoryFreeBytes: 1 };
    registry.heartbeat(heartbeat as HeartbeatRequest__Output);
  };
  /** With ticks as the controller has them. */
  const pass = (ms: number) => {
    for (let passedMs = 0; passedMs < ms; passedMs += 250) {
      vi.advanceTimersByTime(250);
      registry.tick();
    }
  };
  const standStill = (ms: number) => {
    stoodMs += ms;
  };
  return { registry, lost, join, beat, pass, standStill };
}

const never = new AbortController().signal;

describe('a registry whose process stood still', () => {
  it.each([2_000, 6_327, 60_000])('for %i ms loses nobody who is heard of afterwards', (ms) => {
    const { registry, lost, join, beat, pass, standStill } = site();
    for (const id of ['a', 'b']) join(id);
    pass(500);
    standStill(ms);
    // Timers run first; heartbeats wait in the sockets.
    registry.tick();
    expect(registry.available()).toHaveLength(2);
    pass(500);
    for (const id of ['a', 'b']) beat(id);
    pass(1_500);
    expect([lost, registry.available().length]).toEqual([[], 2]);
  });

  it('loses who says nothing afterwards, after the usual time', () => {
    const { registry, lost, join, beat, pass, standStill } = site();
    for (const id of ['a', 'b']) join(id);
    standStill(0);
    pass(250);
    standStill(60_000);
    registry.tick();
    for (let ms = 0; ms < 5_500; ms += 500) {
      beat('a');
      pass(500);
    }
    expect(lost).toEqual(['b']);
  });
});

it('refuses a second worker of one name on another host as denied, and goes on with the first', () => {
  const { registry, lost, join, beat } = site();
  join('a');
  const second = { workerId: 'a', incarnation: 'other', address: 'elsewhere:1', version: '1' };
  expect(() => registry.register({ ...second, device: madeUpDevice })).toThrow(
    expect.objectContaining({
      code: 'denied',
      field: 'worker_id',
      message: expect.stringContaining('alive at host:1'),
    }),
  );
  beat('a');
  expect([lost, registry.members().map(({ incarnation }) => incarnation)]).toEqual([[], ['a1']]);
});

describe('waiting for workers', () => {
  const idsOf = (members: readonly { id: string }[]) => members.map(({ id }) => id);

  it('goes on with those that are there once no more of them come', async () => {
    const { registry, join } = site();
    const found = vi.fn();
    void registry.waitForAvailable(3, Number.POSITIVE_INFINITY, never, 30_000).then(found);
    await vi.advanceTimersByTimeAsync(60_000);
    join('a');
    await vi.advanceTimersByTimeAsync(29_000);
    join('b');
    await vi.advanceTimersByTimeAsync(29_000);
    expect(found).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(2_000);
    expect(found.mock.calls.map(([members]) => idsOf(members))).toEqual([['a', 'b']]);
  });

  it('waits for no more than it needs, and for as long as it takes when nobody says how long', async () => {
    const { registry, join } = site();
    join('a');
    const found = vi.fn();
    const waiting = registry.waitForAvailable(2, Number.POSITIVE_INFINITY, never).then(found);
    await vi.advanceTimersByTimeAsync(600_000);
    expect(found).not.toHaveBeenCalled();
    join('b');
    await waiting;
    expect(idsOf(found.mock.calls[0]?.[0])).toEqual(['a', 'b']);
    const two = registry.waitForAvailable(2, Number.POSITIVE_INFINITY, never, 30_000);
    expect(idsOf(await two)).toEqual(['a', 'b']);
  });
});
