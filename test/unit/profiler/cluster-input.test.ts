import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { plan } from '../../../controller/planner/plan.ts';
import { clusterPlanInput, parseCluster } from '../../../controller/profiler/cluster-input.ts';
import { parseDeviceProfile } from '../../../controller/profiler/device-profile.ts';
import { toPlanInput } from '../../../controller/profiler/plan-input.ts';
import {
  readCluster,
  readDeviceProfiles,
  readModelShape,
} from '../../../controller/tools/cluster-file.ts';
import { HelsError } from '../../../proto/domain/errors.ts';

const profiles = await readDeviceProfiles();
const llama = await readModelShape('deploy/examples/models/llama-2-13b');
const workload = { sequences: 8, contextTokens: 512, prefillChunk: 512, outputTokens: 128 };

const inputOf = (cluster: unknown) =>
  clusterPlanInput(parseCluster(cluster), llama, workload, profiles);

function failureOf(run: () => unknown): HelsError {
  try {
    run();
  } catch (error) {
    if (error instanceof HelsError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

describe('device profiles', () => {
  test('all devices of the documentation are there', () => {
    expect([...profiles.keys()]).toEqual([
      'a100-40',
      'a100-80',
      'a40',
      'h100',
      'h200',
      'l4',
      'p100',
      'rtx-3090',
      'rtx-4090',
      't4',
      'v100',
    ]);
  });

  const a100 = profiles.get('a100-40') as NonNullable<ReturnType<typeof profiles.get>>;

  test.each([
    [{ ...a100, watts: 400 }, 'watts is not a field'],
    [{ ...a100, memoryBytes: { value: Number.NaN, source: 'x' } }, 'memoryBytes.value is NaN'],
    [{ ...a100, memoryBytes: { value: 1 } }, 'memoryBytes.source is missing'],
    [
      { ...a100, efficiency: { ...a100.efficiency, memory: { value: 1.2 } } },
      'efficiency.memory.value is 1.2; it must be a number above 0 and at most 1',
    ],
    [[], 'the profile is []; it must be an object'],
  ])('a wrong profile is refused: %#', (json, message) => {
    const failure = failureOf(() => parseDeviceProfile(json, 'mine'));
    expect(failure.code).toBe('config-invalid');
    expect(failure.message).toContain(`device profile 'mine': ${message}`);
  });
});

describe('lines from a datasheet', () => {
  test('one A100: the decode step is its weights and KV at the attained bandwidth', () => {
    const input = inputOf({ devices: [{ profile: 'a100-40', memory: '80GiB' }] });
    const { predicted } = plan(input, () => 0);
    const weights = 40 * (4 * 5120 ** 2 + 3 * 5120 * 13824) + 32000 * 5120;
    const keyValues = 8 * 512 * 40 * 2 * 5120;
    const seconds = ((weights + keyValues) * 2) / (1.555e12 * 0.79) + 40 * 2e-5;
    expect(predicted.decodeSeconds).toBeCloseTo(seconds, 12);
  });

  test('prefill of a long chunk is its products at the attained rate', () => {
    const input = inputOf({ devices: [{ profile: 'a100-40', memory: '80GiB' }] });
    const weights = 40 * (4 * 5120 ** 2 + 3 * 5120 * 13824);
    const products = 2 * weights * 512 + 40 * 4 * 5120 * ((512 * 513) / 2);
    const rows = (32000 * 5120 * 2) / (1.555e12 * 0.79);
    const seconds = products / (312e12 * 0.77) + rows + 40 * 2e-5;
    expect(plan(input, () => 0).predicted.prefillSeconds).toBeCloseTo(seconds, 12);
  });

  test('the link pays two sums a layer, int64 in exact numerics', () => {
    const devices = [{ profile: 'a100-40', count: 2 }];
    const link = { kind: 'pcie', latencySeconds: 1e-5, bytesPerSecond: 1e10 };
    const fast = inputOf({ devices, link, numerics: 'fast' }).devices[0]?.link;
    const exact = inputOf({ devices, link }).devices[1]?.link;
    expect(fast?.constant).toBeCloseTo(81e-5, 12);
    expect(fast?.perTokenRing).toBeCloseTo((2 * 40 * 5120 * 2) / 1e10, 12);
    expect(exact?.perTokenRing).toBeCloseTo((2 * 40 * 5120 * 8) / 1e10, 12);
  });

  test('each device has the rate of its own link: one that is left out slows no one down', () => {
    const devices = [{ profile: 'a100-80', count: 2 }, { profile: 'p100' }];
    const rings = inputOf({ devices, link: 'pcie' }).devices.map(({ link }) => link?.perTokenRing);
    expect(rings[0]).toBe(rings[1]);
    expect((rings[2] ?? 0) / (rings[0] ?? 1)).toBeCloseTo(2, 0);
    const planOf = (list: typeof devices) =>
      plan({ ...inputOf({ devices: list, link: 'pcie' }) }, () => 0);
    const [two, three] = [planOf(devices.slice(0, 1)), planOf(devices)];
    expect(three.predicted.decodeSeconds).toBeLessThanOrEqual(two.predicted.decodeSeconds);
  });

  test('the plan is what a deployment with the same lines gets', () => {
    const spec = parseCluster({ devices: [{ profile: 'a100-80' }, { profile: 'l4', count: 2 }] });
    const input = clusterPlanInput(spec, llama, workload, profiles);
    const profiled = input.devices.map(({ decode, prefill, link, ...device }) => ({
      ...device,
      decode: [decode].flat(),
      prefill: [prefill].flat(),
      link: link ?? { constant: 0, perToken: 0 },
    }));
    const deployed = toPlanInput(llama, profiled, workload, 'hels');
    expect(plan(input, () => 0)).toEqual(plan(deployed, () => 0));
  });

  test('overrides of memory and efficiency; ids are numbered', () => {
    const { devices } = inputOf({
      memoryShare: 0.5,
      devices: [
        { profile: 'v100', count: 2 },
        { profile: 'v100', memory: '32GiB', efficiency: { memory: 0.355 } },
        { profile: 'l4', id: 'edge' },
      ],
    });
    expect(devices.map(({ id }) => id)).toEqual(['v100-0', 'v100-1', 'v100-2', 'edge']);
    expect(devices[2]).toMatchObject({ memoryBytes: 32 * 2 ** 30, reservedBytes: 16 * 2 ** 30 });
    const first = [devices[0]?.decode].flat()[0];
    const slower = [devices[2]?.decode].flat()[0];
    expect((slower?.perHeadGroup ?? 0) / (first?.perHeadGroup ?? 1)).toBeCloseTo(2, 9);
  });
});

describe('a wrong cluster is refused by name', () => {
  test.each([
    [{}, 'devices is missing; it must be a list of devices'],
    [{ devices: [] }, 'devices is []; it must name at least one device'],
    [{ devices: [{ profile: 'a100' }] }, "devices[0].profile is 'a100'; the profiles are a100-40"],
    [{ devices: [{ profile: 'l4', count: 0 }] }, 'devices[0].count is 0'],
    [{ devices: [{ profile: 'l4', memory: '24 sheep' }] }, "devices[0].memory: '24 sheep'"],
    [{ devices: [{ profile: 'l4', memory: -1 }] }, "devices[0].memory: '-1' is not a size"],
    [{ devices: [{ profile: 'l4', speed: 2 }] }, 'devices[0].speed is not a field'],
    [{ devices: [{ profile: 'l4' }], link: 'string' }, 'link.kind is'],
    [{ devices: [{ profile: 'l4' }], link: 'nvlink' }, 'devices[0] (l4) has none'],
    [{ devices: [{ profile: 'l4' }], link: { latencySeconds: -1 } }, 'link.latencySeconds is -1'],
    [{ devices: [{ profile: 'l4' }], numerics: 'exakt' }, 'numerics is "exakt"'],
    [{ devices: [{ profile: 'l4' }], memoryShare: 0 }, 'memoryShare is 0'],
    [
      {
        devices: [
          { profile: 'l4', id: 'x' },
          { profile: 't4', id: 'x' },
        ],
      },
      "devices[1].id is 'x' like devices[0].id",
    ],
    [
      { devices: [{ profile: 'l4', efficiency: { compute: Number.NaN } }] },
      'devices[0].efficiency.compute is NaN',
    ],
    [null, 'the file is null; it must be an object'],
  ])('%j', (cluster, message) => {
    const failure = failureOf(() => inputOf(cluster));
    expect(failure.code).toBe('config-invalid');
    expect(failure.message).toContain(message);
    expect(failure.message).not.toContain('\n');
  });
});

test('every example cluster plans every example model that fits', async () => {
  const files = readdirSync('deploy/examples').filter((file) =>
    /^devices:/m.test(
      file.endsWith('.yaml') ? readFileSync(`deploy/examples/${file}`, 'utf8') : '',
    ),
  );
  expect(files.length).toBeGreaterThanOrEqual(2);
  for (const file of files) {
    const cluster = await readCluster(`deploy/examples/${file}`);
    const name = file.startsWith('opt') ? 'opt-30b' : 'llama-2-13b';
    const model = await readModelShape(`deploy/examples/models/${name}/config.json`);
    expect(plan(clusterPlanInput(cluster, model, workload, profiles), () => 0).feasible).toBe(true);
  }
});
