/** What a deployment is refused for before what is served makes room for it. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { DeploymentRequest } from '../../../controller/cluster/group.ts';
import { DeployAhead, planRequestAhead } from '../../../controller/deployment/deploy-ahead.ts';
import { makePlan } from '../../../controller/deployment/make-plan.ts';
import type { ServedFiles } from '../../../controller/deployment/served-files.ts';
import { WorkerRegistry } from '../../../controller/deployment/worker-registry.ts';
import { TextModel } from '../../../controller/tokenizer/text-model.ts';
import { systemClock } from '../../../proto/base/clock.ts';
import { createLogger } from '../../../proto/base/log.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { bundledModel } from '../../support/daemons.ts';
import { requestFor } from '../cluster/trace.ts';
import { smallModel } from '../profiler/models.ts';

const MiB = 2 ** 20;
const files = { modelId: 'm', directory: '/m', digest: 'd', spec: smallModel } as ServedFiles;
const request = requestFor('m');

/** Its memory is taken, by what is served. */
const worker = (id: string, memoryBytes: number, hostMemoryBytes = 0) => ({
  id,
  device: {
    ...{ kind: 'cpu', name: '', threads: 1, speed: 1, emulated: false, implementation: '' },
    ...{ memoryBytes, memoryFreeBytes: 0, hostMemoryBytes },
  },
});

/** Of workers that nobody has measured. Throws as the deployment would; whether it was certain. */
function judgeOn(workers: ReturnType<typeof worker>[], changes: Partial<DeploymentRequest>) {
  const measured = workers.map((one) => ({ worker: one, fit: null }));
  const ahead = planRequestAhead({ ...request, ...changes }, files, measured, null);
  if (ahead !== null) makePlan(ahead, () => 0);
  return ahead !== null;
}

function judge(changes: Partial<DeploymentRequest>, memoryBytes = 512 * MiB): boolean {
  return judgeOn([worker('a', memoryBytes), worker('b', memoryBytes)], changes);
}

it('leaves it to the attempt whether all ranks of a split that nobody knows yet have room for KV that waits', () => {
  const workload = { sequences: 6, contextTokens: 256, prefillChunk: 0, outputTokens: 0 };
  const asked = { workload, policy: 'hels' };
  const short = worker('b', 6 * MiB);
  expect(judgeOn([worker('a', 16 * MiB, 64 * MiB), short], asked)).toBe(false);
  expect(() => judgeOn([worker('a', 16 * MiB), short], asked)).toThrow('no split fits');
});

const byHand = (a: number, b: number, second = 'b') => ({
  ranks: [
    { workerId: 'a', headGroups: a, ffnWeight: 1 },
    { workerId: second, headGroups: b, ffnWeight: 1 },
  ],
});

it('refuses a split by hand that is none of the model', () => {
  const { headGroups } = smallModel;
  expect(judge(byHand(headGroups - 1, 1))).toBe(true);
  expect(() => judge(byHand(headGroups - 1, 0))).toThrow(`the model has ${headGroups} head groups`);
  expect(() => judge(byHand(headGroups - 1, 1, 'c'))).toThrow("worker 'c' is not registered");
});

it('refuses what fits no memory, were it all free, and nothing else', () => {
  const workload = { sequences: 1024, contextTokens: 64, prefillChunk: 0, outputTokens: 0 };
  for (const policy of ['', 'hels', 'optimal']) {
    expect(judge({ policy })).toBe(true);
    expect(() => judge({ policy, workload }, 64 * MiB)).toThrow('no split fits');
  }
  // Whether these fit depends on lines that nobody has measured.
  expect(judge({ policy: 'compute', workload }, 64 * MiB)).toBe(false);
  expect(() => judge({ policy: 'fastest' })).toThrow("policy: 'fastest' is not one of");
});

const closed = vi.fn(async () => undefined);
beforeEach(() => {
  closed.mockClear();
  vi.spyOn(TextModel, 'load').mockResolvedValue({ close: closed } as unknown as TextModel);
});
afterEach(() => {
  vi.restoreAllMocks();
});

/** Nobody has registered. */
function setUp(serves: boolean) {
  const log = createLogger('test', 'error');
  const registry = new WorkerRegistry(1, systemClock, log, () => undefined);
  const store = { loadMeasurement: async () => null, saveMeasurement: async () => undefined };
  const ahead = new DeployAhead({
    ...{ registry, store },
    makePlan: async (planRequest) => makePlan(planRequest, () => 0),
    serves: () => serves,
    available: () => [],
  });
  const bundled = { ...request, modelPath: bundledModel, workersMin: 2 };
  const check = async (
    timeoutMs: number,
    signal = new AbortController().signal,
    modelPath = bundledModel,
  ) => {
    const seen: string[] = [];
    const events = ahead.check({ ...bundled, modelPath }, timeoutMs, signal);
    for (;;) {
      const next = await events.next();
      if (next.done) return { seen, inherited: next.value };
      seen.push(next.value.progress?.message ?? '');
    }
  };
  return { ahead, check };
}

it('is over when the files cannot be served, too: a drain then waits for nothing', async () => {
  const { ahead, check } = setUp(true);
  const { signal } = new AbortController();
  const refused = check(50, signal, '/not-there');
  expect(ahead.isBusy).toBe(true);
  await expect(refused).rejects.toMatchObject({ code: 'model-invalid' });
  expect(ahead.isBusy).toBe(false);
});

it('waits for workers while something serves, and leaves that to the attempt when nothing does', async () => {
  await expect(setUp(true).check(50)).rejects.toMatchObject({
    code: 'deadline-exceeded',
    message: expect.stringContaining('0 of 2 workers registered within 50 ms'),
  });
  expect(closed).toHaveBeenCalledTimes(1);
  const { seen, inherited } = await setUp(false).check(50);
  expect([seen, inherited.workersTimeoutMs]).toEqual([[], 50]);
  expect(closed).toHaveBeenCalledTimes(1);
});

it('ends when the caller leaves, and when another deployment comes', async () => {
  const { check } = setUp(true);
  const leaves = new AbortController();
  const left = check(10_000, leaves.signal);
  const replaced = check(10_000);
  leaves.abort(new HelsError('cancelled', 'gone'));
  const ended = await Promise.allSettled([left, replaced, check(50)]);
  expect(ended).toMatchObject([
    { reason: { code: 'cancelled' } },
    {
      reason: {
        code: 'cancelled',
        message: `another deployment took its place: deploying ${bundledModel}`,
      },
    },
    { reason: { code: 'deadline-exceeded' } },
  ]);
  expect(closed).toHaveBeenCalledTimes(3);
});
