import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  attainedRates,
  type DeviceProfile,
  parseDeviceProfile,
  profileLines,
} from '../../../controller/profiler/device-profile.ts';
import { predictSeconds } from '../../../controller/profiler/latency-terms.ts';
import type { PlanModel } from '../../../proto/domain/plan.ts';
import { quantile } from '../../../proto/domain/quantile.ts';

/**
 * Where the "measured" efficiencies of deploy/profiles come from: timings of one LLaMA-30B layer (52 heads, hidden 6656, 17920 FFN columns,
 * f16). The decode files do not say how long the contexts are; one length, the same for all devices, is fitted with the efficiencies.
 */
const shared = process.env['HELS_SHARED'] ?? '../shared';
const folder = join(shared, 'data', 'helix-profiles');
const there = existsSync(folder);

const layer: PlanModel = {
  layers: 1,
  hiddenSize: 6656,
  headGroups: 52,
  queryHeadsPerGroup: 1,
  headDim: 128,
  ffnColumns: 17920,
  ffnGranule: 1120,
  ffnMatrices: 3,
  vocabRows: 1,
  weightBytesPerParam: 2,
  kvBytesPerElement: 2,
};

const devices = { 'a100-40': 'a100', v100: 'v100', l4: 'l4', t4: 't4' } as const;
type Device = keyof typeof devices;
const names = Object.keys(devices) as Device[];

const profileOf = (name: Device): DeviceProfile =>
  parseDeviceProfile(JSON.parse(readFileSync(`deploy/profiles/${name}.json`, 'utf8')), name);

/** Rows of tokens,milliseconds without the filler row 0,0. */
function timings(name: Device, phase: 'decode' | 'prompt'): { tokens: number; seconds: number }[] {
  return readFileSync(join(folder, `llama1_30b_${devices[name]}_${phase}.csv`), 'utf8')
    .trim()
    .split('\n')
    .map((row) => row.split(',').map(Number))
    .map(([tokens = 0, milliseconds = 0]) => ({ tokens, seconds: milliseconds / 1e3 }))
    .filter(({ tokens }) => tokens > 0);
}

const median = (values: number[]): number =>
  quantile(
    values.sort((left, right) => left - right),
    0.5,
  );

/** Absolute percentage errors of the profile's lines with these efficiencies. */
function percentErrors(
  name: Device,
  phase: 'decode' | 'prompt',
  efficiency: { memory?: number; compute?: number },
  context: number,
): number[] {
  const lines = profileLines(attainedRates(profileOf(name), 'f16', efficiency), layer);
  return timings(name, phase).map(({ tokens, seconds }) => {
    const point = {
      prefill: phase === 'prompt',
      tokens,
      // Prompts are taken for short ones: the files grow in proportion to the tokens.
      contextTokens: phase === 'prompt' ? 0 : tokens * context,
      headGroups: layer.headGroups,
      ffnColumns: layer.ffnColumns,
      vocabRows: 0,
    };
    const predicted = predictSeconds(phase === 'prompt' ? lines.prefill : lines.decode, point);
    return 100 * Math.abs(predicted / seconds - 1);
  });
}

const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** The share with the least mean error. */
function bestShare(errorOf: (share: number) => number): { share: number; error: number } {
  let best = { share: 0, error: Number.POSITIVE_INFINITY };
  for (let percent = 20; percent <= 100; percent += 1) {
    const error = errorOf(percent / 100);
    if (error < best.error) best = { share: percent / 100, error };
  }
  return best;
}

test.skipIf(there)('real GPU timings', ({ skip }) => {
  skip(`skipped: no profiles in ${folder}; set HELS_SHARED`);
});

test.skipIf(!there)('the measured efficiencies are those of the timings', () => {
  const compute = new Map(
    names.map((name) => [
      name,
      bestShare((share) => mean(percentErrors(name, 'prompt', { compute: share }, 0))).share,
    ]),
  );
  const memoryAt = (name: Device, context: number) =>
    bestShare((share) =>
      mean(
        percentErrors(name, 'decode', { memory: share, compute: compute.get(name) ?? 1 }, context),
      ),
    );
  let best = { context: 0, error: Number.POSITIVE_INFINITY };
  for (let context = 600; context <= 1200; context += 50) {
    const error = mean(names.map((name) => memoryAt(name, context).error));
    if (error < best.error) best = { context, error };
  }
  process.stdout.write(`context of the decode timings: ${best.context} tokens\n`);
  const derived: Record<string, object> = {};
  for (const name of names) {
    const memory = memoryAt(name, best.context).share;
    const errors = (['decode', 'prompt'] as const).map((phase) =>
      median(percentErrors(name, phase, {}, best.context)),
    );
    process.stdout.write(
      `${name}: memory ${memory}, compute ${compute.get(name)}; median error of the profile: decode ` +
        `${errors[0]?.toFixed(1)} %, prefill ${errors[1]?.toFixed(1)} %\n`,
    );
    derived[name] = { memory, compute: compute.get(name), basis: 'measured' };
    // A profile of two efficiencies is coarser than fitted lines (helix-profiles.test.ts).
    expect(Math.max(...errors)).toBeLessThan(15);
  }
  const written = names.map((name) => {
    const { memory, compute: prefill } = profileOf(name).efficiency;
    expect(prefill.basis).toBe(memory.basis);
    return [name, { memory: memory.value, compute: prefill.value, basis: memory.basis }];
  });
  expect(Object.fromEntries(written)).toEqual(derived);
});
