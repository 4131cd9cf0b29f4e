/** What a deployment is refused for before what is served makes room for it. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { DeploymentRequest } from '../../../controller/cluster/group.ts';
import { DeployAhead, requirePlan } from '../../../controller/deployment/deploy-ahead.ts';
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

function judge(changes: Partial<DeploymentRequest>, memoryBytes = 512 * MiB): void {
  const measured = ['a', 'b'].map((id) => ({ worker: worker(id, memoryBytes), fit: null }));
  requirePlan({ ...request, ...changes }, files, measured, null, () => 0);
}

it('leaves it to the attempt whether all ranks of a split that nobody knows yet have room for KV that waits', () => {
  const measured = [worker('a', 16 * MiB, 64 * MiB), worker('b', 6 * MiB)].map((one) => ({
    ...{ worker: one, fit: null },
  }));
  const workload = { sequences: 6, contextTokens: 256, prefillChunk: 0, outputTokens: 0 };
  const asked = { ...request, workload, policy: 'hels' };
  expect(() => requirePlan(asked, files, measured, null, () => 0)).not.toThrow();
  const alone = measured.map(({ worker: one, fit }) => {
    return { worker: { ...one, device: { ...one.device, hostMemoryBytes: 0 } }, fit };
  });
  expect(() => requirePlan(asked, files, alone, null, () => 0)).toThrow('no split fits');
});

const byHand = (a: number, b: number, second = 'b') => ({
  ranks: [
    { workerId: 'a', headGroups: a, ffnWeight: 1 },
    { workerId: second, headGroups: b, ffnWeight: 1 },
  ],
});

it('refuses a split by hand that is none of the model', () => {
  const { headGroups } = smallModel;
  judge(byHand(headGroups - 1, 1));
  expect(() => judge(byHand(headGroups - 1, 0))).toThrow(`the model has ${headGroups} head groups`);
  expect(() => judge(byHand(headGroups - 1, 1, 'c'))).toThrow("worker 'c' is not registered");
});

it('refuses what fits no memory, were it all free, and nothing else', () => {
  const workload = { sequences: 1024, contextTokens: 64, prefillChunk: 0, outputTokens: 0 };
  for (const policy of ['', 'hels', 'optimal']) {
    judge({ policy });
    expect(() => judge({ policy, workload }, 64 * MiB)).toThrow('no split fits');
  }
  // Whether these fit depends on lines that nobody has measured.
  judge({ policy: 'compute', workload }, 64 * MiB);
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
    ...{ registry, store, clock: systemClock },
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
