import { expect } from 'vitest';
import type { GroupWorker } from '../../../controller/deployment/group-worker.ts';
import type { ProfilePoint } from '../../../proto/gen/hels/v1/ProfilePoint.ts';
import { smallModel } from '../profiler/models.ts';

interface Calls {
  profiled: string[];
  probed: string[];
  released: string[];
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
      describe: async () => ({
        device: { kind: 'cpu', memoryFreeBytes: 2 ** 31, hostMemoryBytes: 0 },
      }),
      release: async () => void calls.released.push(id),
      openProbe: async ({ rank }: { rank: number }) => `address ${rank}`,
      probeCollective: async (request: { tokens: number[]; collectiveAddresses: string[] }) => {
        calls.probed.push(id);
        expect(request.collectiveAddresses.slice(0, 2)).toEqual(['address 0', 'address 1']);
        return request.tokens.map((tokens) => 1e-4 + 1e-6 * tokens);
      },
    },
  } as unknown as GroupWorker;
}

/** Two such workers, or more, and a store for what is measured of them. */
export function site(measuredMax = Number.POSITIVE_INFINITY) {
  const calls: Calls = { profiled: [], probed: [], released: [] };
  const stored = new Map<string, string>();
  const ports = {
    store: {
      loadMeasurement: async (key: string) => stored.get(key) ?? null,
      saveMeasurement: async (key: string, value: string) => void stored.set(key, value),
    },
    nowMs: () => 0,
    unixMs: () => 5,
  };
  const workers = (implementation = 'build 1', ids = ['a', 'b']) =>
    ids.map((id) => workerOf(id, calls, measuredMax, implementation));
  const options = (refresh = false, model = smallModel) => ({
    model,
    stepTokensMax: 512,
    sequencesMax: 64,
    fence: { term: 1, epoch: 1 },
    refresh,
  });
  return { calls, ports, workers, options };
}
