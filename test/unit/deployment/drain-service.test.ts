/** Draining over the real registry and real proposals; the move itself is test/daemons/replan.test.ts. */
import { describe, expect, it } from 'vitest';
import { type Group, initialGroup } from '../../../controller/cluster/group.ts';
import { DrainService } from '../../../controller/deployment/drain-service.ts';
import { WorkerRegistry } from '../../../controller/deployment/worker-registry.ts';
import { createLogger } from '../../../proto/base/log.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { ReplanEvent } from '../../../proto/gen/hels/v1/ReplanEvent.ts';
import { madeUpDevice } from '../cluster/made-up-device.ts';
import { loaded, request } from './replan-setting.ts';

/** Workers a and b serve, c is idle. */
function setUp(changes: Partial<Group> = {}) {
  const at = { nowMs: 0 };
  const clock = { nowMs: () => at.nowMs, unixMs: () => 0 };
  const registry = new WorkerRegistry(1, clock, createLogger('test', 'error'), () => undefined);
  let joined = 0;
  registry.connect({ workerJoined: () => (joined += 1), workerLost: () => undefined }, () => false);
  for (const workerId of ['a', 'b', 'c']) {
    registry.register({
      workerId,
      incarnation: '1',
      address: 'h:1',
      version: '1',
      device: madeUpDevice,
    });
  }
  joined = 0;
  let stored: readonly string[] = [];
  const runs: string[][] = [];
  const told: string[] = [];
  const setting = {
    group: { ...initialGroup(3), phase: 'ready', request, ...changes } as Group,
    /** What a run throws after so many events. */
    checks: false,
    failure: null as { after: number; error: Error } | null,
    storeFails: false,
  };
  const service = new DrainService({
    registry,
    coordinator: {
      get group() {
        return setting.group;
      },
      get checksDeployment() {
        return setting.checks;
      },
      serving: { loaded },
    },
    replanner: {
      async *run(): AsyncGenerator<ReplanEvent, void, undefined> {
        runs.push(registry.available().map(({ id }) => id));
        const { failure } = setting;
        if (failure?.after === 0) throw failure.error;
        yield { progress: { phase: 'loading', message: '', fraction: 0 } };
        if (failure?.after === 1) throw failure.error;
        yield { done: { replan: null, report: null } };
      },
    },
    events: { record: (kind, workerId) => told.push(`${kind} ${workerId}`) },
    clock,
    log: createLogger('test', 'error'),
    store: {
      loadDrained: async () => [...stored],
      saveDrained: async (ids) => {
        if (setting.storeFails) throw new HelsError('unreachable', 'no store');
        stored = ids;
      },
    },
  });
  const all = async (events: AsyncIterable<ReplanEvent>) => {
    const told: ReplanEvent[] = [];
    for await (const event of events) told.push(event);
    return told;
  };
  return {
    at,
    registry,
    service,
    setting,
    runs,
    told,
    drain: (id: string) => all(service.drain(id)),
    undo: (id: string) => all(service.undo(id)),
    stored: () => stored,
    joined: () => joined,
  };
}

const infeasible = new HelsError('plan-infeasible', 'no split fits');

describe('draining a worker', () => {
  it('plans without it before it ends, and every later time', async () => {
    const { drain, runs, stored, registry, told } = setUp();
    expect(await drain('a')).toHaveLength(2);
    expect(told).toEqual(['drained a']);
    expect(runs).toEqual([['b', 'c']]);
    expect(stored()).toEqual(['a']);
    expect(registry.available().map(({ id }) => id)).toEqual(['b', 'c']);
    // A new life of the worker is drained as the one before.
    registry.register({
      workerId: 'a',
      incarnation: '2',
      address: 'h:1',
      version: '1',
      device: madeUpDevice,
    });
    expect(registry.available().map(({ id }) => id)).toEqual(['b', 'c']);
  });

  it.each([
    ['serves nothing', 'c', {}],
    ['when nothing is served', 'a', { phase: 'waiting' }],
  ] as const)('moves nothing for one that %s', async (_, id, group) => {
    const { drain, runs, stored, told } = setUp(group);
    expect(await drain(id)).toEqual([{ done: { replan: null, report: null } }]);
    expect(runs).toEqual([]);
    expect(told).toEqual([`drained ${id}`]);
    expect(stored()).toEqual([id]);
  });

  it('leaves everything as it was when the others cannot take over', async () => {
    const { drain, setting, stored, registry, told } = setUp();
    setting.failure = { after: 0, error: infeasible };
    await expect(drain('a')).rejects.toThrow("without worker 'a': no split fits");
    expect(told).toEqual([]);
    expect(stored()).toEqual([]);
    expect(registry.isDrained('a')).toBe(false);
  });

  it('keeps the mark when the move has begun, and may be asked again', async () => {
    const { drain, setting, stored, told } = setUp();
    setting.failure = { after: 1, error: infeasible };
    await expect(drain('a')).rejects.toBe(infeasible);
    expect(stored()).toEqual(['a']);
    setting.failure = { after: 0, error: infeasible };
    await expect(drain('a')).rejects.toThrow("without worker 'a': no split fits");
    expect(stored()).toEqual(['a']);
    setting.failure = null;
    expect(await drain('a')).toHaveLength(2);
    // The mark is one and the same.
    expect(told).toEqual(['drained a']);
  });

  it('holds at once when the store is away, and is stored when it is back', async () => {
    const { at, drain, setting, registry, runs, stored, service } = setUp();
    setting.storeFails = true;
    // Once the move has begun: it goes on to its end, whoever is left to hear of it.
    const [, told, ...others] = await drain('a');
    expect(told?.progress?.message).toContain('would not outlast this controller');
    expect(others).toHaveLength(1);
    expect(registry.isDrained('a')).toBe(true);
    expect([runs, stored()]).toEqual([[['b', 'c']], []]);
    setting.storeFails = false;
    at.nowMs = 1_000;
    service.tick();
    await new Promise((resolve) => setImmediate(resolve));
    expect(stored()).toEqual(['a']);
  });

  it('leaves in the store what holds, whoever else is refused meanwhile', async () => {
    const { drain, setting, stored } = setUp();
    setting.failure = { after: 0, error: infeasible };
    const [refused, idle] = await Promise.allSettled([drain('a'), drain('c')]);
    expect([refused?.status, idle?.status]).toEqual(['rejected', 'fulfilled']);
    expect(stored()).toEqual(['c']);
  });

  it('refuses an unknown worker with the names there are', async () => {
    await expect(setUp().drain('z')).rejects.toMatchObject({
      code: 'not-found',
      message: "worker_id: no worker 'z' is registered; registered: a, b, c",
    });
  });

  it('is refused while a deployment is checked beside what is served', async () => {
    const { drain, setting, stored } = setUp();
    setting.checks = true;
    await expect(drain('a')).rejects.toMatchObject({
      code: 'not-ready',
      message: expect.stringContaining('another deployment is being checked; try again'),
    });
    expect(stored()).toEqual([]);
  });

  it.each(['deploying', 'replanning'] as const)('is refused while %s', async (phase) => {
    const { drain, stored } = setUp({ phase, detail: 'loading' });
    await expect(drain('a')).rejects.toMatchObject({ code: 'not-ready' });
    expect(stored()).toEqual([]);
  });

  it('refuses a worker of a split by hand, and the last one', async () => {
    const ranks = [{ workerId: 'a', headGroups: 8, ffnWeight: 1 }];
    const byHand = setUp({ request: { ...request, ranks } });
    await expect(byHand.drain('a')).rejects.toThrow('split by hand');
    const { drain, registry, stored } = setUp();
    for (const id of ['b', 'c']) registry.deregister(id, '1', 'stopped');
    await expect(drain('a')).rejects.toThrow("no worker is left to take over from 'a'");
    expect(stored()).toEqual([]);
  });
});

describe('the way back', () => {
  it('makes the worker one of those that a plan may use, as if it had just come', async () => {
    const { drain, undo, registry, stored, joined, told } = setUp();
    await drain('a');
    expect(await undo('a')).toEqual([{ done: { replan: null, report: null } }]);
    expect(stored()).toEqual([]);
    expect(registry.available().map(({ id }) => id)).toEqual(['a', 'b', 'c']);
    expect(joined()).toBe(1);
    // Once more is no mistake.
    expect(await undo('a')).toHaveLength(1);
    expect(joined()).toBe(1);
    expect(told).toEqual(['drained a', 'undrained a']);
  });

  it('is there for one that never came back, and no other', async () => {
    const { drain, undo, registry, stored } = setUp();
    await drain('c');
    registry.deregister('c', '1', 'stopped');
    await undo('c');
    expect(stored()).toEqual([]);
    await expect(undo('c')).rejects.toMatchObject({ code: 'not-found' });
  });

  it('is not the start of the controller: marks are read from the store', async () => {
    const { drain, service, registry } = setUp();
    await drain('a');
    registry.setDrained('a', false);
    await service.restore();
    expect(registry.drained()).toEqual(['a']);
  });
});

describe('a drained worker that registers', () => {
  it('is no news for a model that waits for workers', async () => {
    const { drain, registry, joined } = setUp();
    await drain('c');
    registry.register({
      workerId: 'c',
      incarnation: '2',
      address: 'h:1',
      version: '1',
      device: madeUpDevice,
    });
    expect(joined()).toBe(0);
  });

  it('is named where workers lack', async () => {
    const { drain, registry } = setUp();
    await drain('c');
    const never = new AbortController().signal;
    await expect(registry.waitForAvailable(3, 0, never)).rejects.toThrow(
      '2 of 3 workers registered within 0 ms beside 1 drained',
    );
  });
});
