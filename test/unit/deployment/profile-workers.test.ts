import { expect, test } from 'vitest';
import type { GroupWorker } from '../../../controller/deployment/group-worker.ts';
import { probeLinks } from '../../../controller/deployment/probe-links.ts';
import { profileWorkers } from '../../../controller/deployment/profile-workers.ts';
import type { ProfilePoint } from '../../../proto/gen/hels/v1/ProfilePoint.ts';
import { smallModel } from '../profiler/models.ts';

interface Calls {
  profiled: string[];
  probed: string[];
}

/** A worker whose steps take 1 us, and 1 us for each token and head; it measures only the first `measuredMax` points. */
function workerOf(id: string, calls: Calls, measuredMax: number, implementation: string) {
  return {
    id,
    incarnation: '1',
    address: '127.0.0.1:1',
    device: {
      kind: 'cpu',
      name: 'made up',
      threads: 1,
      speed: 1,
      emulated: false,
      memoryBytes: 2 ** 32,
      memoryFreeBytes: 2 ** 32,
      implementation,
    },
    client: {
      profile: async ({ points = [] }: { points?: ProfilePoint[] }) => {
        calls.profiled.push(id);
        const secondsOf = (point: ProfilePoint) =>
          1e-6 * (1 + (point.tokens ?? 0) * (point.headGroups ?? 0));
        const seconds = points
          .slice(0, measuredMax)
          .map((point, index): [number, number] => [index, secondsOf(point)]);
        return { seconds: new Map(seconds), copyBytesPerSecond: 1e9 };
      },
      openProbe: async ({ rank }: { rank: number }) => `address ${rank}`,
      probeCollective: async (request: { tokens: number[]; collectiveAddresses: string[] }) => {
        calls.probed.push(id);
        expect(request.collectiveAddresses).toEqual(['address 0', 'address 1']);
        return request.tokens.map((tokens) => 1e-4 + 1e-6 * tokens);
      },
    },
  } as unknown as GroupWorker;
}

function site(measuredMax = Number.POSITIVE_INFINITY) {
  const calls: Calls = { profiled: [], probed: [] };
  const stored = new Map<string, string>();
  const ports = {
    store: {
      loadMeasurement: async (key: string) => stored.get(key) ?? null,
      saveMeasurement: async (key: string, value: string) => void stored.set(key, value),
    },
    nowMs: () => 0,
    unixMs: () => 5,
  };
  const workers = (implementation = 'build 1') =>
    ['a', 'b'].map((id) => workerOf(id, calls, measuredMax, implementation));
  const options = (refresh = false, model = smallModel) => ({
    model,
    stepTokensMax: 512,
    fence: { term: 1, epoch: 1 },
    refresh,
  });
  return { calls, ports, workers, options };
}

test('equal devices are measured once, kept, and measured again for refresh, another build and another shape', async () => {
  const { calls, ports, workers, options } = site();
  const progress: string[] = [];
  const tell = (message: string) => progress.push(message);
  const runs = await profileWorkers(workers(), options(), ports, tell);
  expect(calls.profiled).toEqual(['a']);
  expect([...runs.values()].map(({ stored }) => stored)).toEqual([false, true]);
  expect(runs.get('b')?.fit.decode).toEqual(runs.get('a')?.fit.decode);
  expect(progress).toContain('b: its lines are stored');

  await profileWorkers(workers(), options(), ports, tell);
  expect(calls.profiled).toEqual(['a']);
  await profileWorkers(workers(), options(true), ports, tell);
  expect(calls.profiled).toEqual(['a', 'a', 'b']);
  await profileWorkers(workers('build 2'), options(), ports, tell);
  expect(calls.profiled).toHaveLength(4);
  await profileWorkers(workers(), options(false, { ...smallModel, layers: 5 }), ports, tell);
  expect(calls.profiled).toHaveLength(5);
});

test('a device too slow for the grid gets lines from the points it measured, in the order of the grid', async () => {
  const { ports, workers, options } = site(40);
  const runs = await profileWorkers(workers(), options(), ports, () => {});
  const run = runs.get('a');
  expect(run?.points).toHaveLength(40);
  const phases = run?.points.map(({ prefill, chunkTokens }) => (chunkTokens ? 2 : prefill ? 1 : 0));
  expect(phases).toEqual([...(phases ?? [])].sort());
  expect(run?.fit.phases.decode.heldOut.medianAbsolutePercent).toBeLessThan(1);
});

test('links are measured between the workers once, and are nothing for one alone', async () => {
  const { calls, ports, workers, options } = site();
  const links = await probeLinks(workers(), options(), ports, () => {});
  expect(links.get('a')?.constant).toBeCloseTo(1e-4, 8);
  expect(links.get('b')?.perToken).toBeCloseTo(1e-6, 8);
  expect(await probeLinks(workers(), options(), ports, () => {})).toEqual(links);
  expect(calls.probed).toEqual(['a', 'b']);
  await probeLinks(workers(), options(true), ports, () => {});
  expect(calls.probed).toHaveLength(4);
  const alone = await probeLinks(workers().slice(0, 1), options(), ports, () => {});
  expect(alone.get('a')).toEqual({ constant: 0, perToken: 0 });
  expect(calls.probed).toHaveLength(4);
});
