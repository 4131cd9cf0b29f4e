import { expect, test } from 'vitest';
import { type Corrections, correctDevices } from '../../../controller/deployment/corrections.ts';
import { type MeasuredSteps, predictRank } from '../../../controller/deployment/plan-report.ts';
import { judgeTrial } from '../../../controller/deployment/trial.ts';
import { plan } from '../../../controller/planner/plan.ts';
import { plannedDecodeSeconds } from '../../../controller/planner/planned-shares.ts';
import { type ProfiledDevice, toPlanInput } from '../../../controller/profiler/plan-input.ts';
import { smallModel } from '../profiler/models.ts';

const nowMs = () => 0;
const workload = { sequences: 2, contextTokens: 32, prefillChunk: 16, outputTokens: 8 };

/** A device that takes so many times as long as the quickest. */
function device(id: string, slowness: number, memoryBytes = 2 ** 32): ProfiledDevice {
  const decode = [{ perHeadGroup: 1e-3 * slowness, perFfnColumn: 1e-5 * slowness }];
  const link = { constant: 1e-5, perToken: 0 };
  return { id, memoryBytes, reservedBytes: 0, decode, prefill: decode, link };
}

const oneHost = new Map([
  ['a', 'here'],
  ['b', 'here'],
  ['c', 'here'],
]);

/** The best plan over the devices, and the trial of it when its kernels take `ratio` and its step `extraSeconds` more than predicted. */
function trialOf(
  devices: readonly ProfiledDevice[],
  ratio: number,
  extraSeconds: number,
  hostOf: ReadonlyMap<string, string> = oneHost,
) {
  const input = toPlanInput(smallModel, devices, workload, 'hels');
  const output = plan(input, nowMs);
  const slowed = {
    ...input,
    devices: devices.map((one) => ({
      ...one,
      decode: one.decode.map((line) => ({
        perHeadGroup: (line.perHeadGroup ?? 0) * ratio,
        perFfnColumn: (line.perFfnColumn ?? 0) * ratio,
      })),
    })),
  };
  const load: MeasuredSteps = {
    sequences: workload.sequences,
    contextTokens: workload.sequences * workload.contextTokens,
    rankSeconds: [],
    stepSeconds: plannedDecodeSeconds(slowed, output.ranks) + extraSeconds,
  };
  const rankSeconds = output.ranks.map((rank) => ratio * predictRank(input, rank, load));
  const measured = { ...load, rankSeconds };
  const corrections = judgeTrial({ input, ranks: output.ranks, measured, hostOf, nowMs });
  return { input, output, measured, corrections };
}

const replanned = (devices: readonly ProfiledDevice[], corrections: Corrections | null) =>
  plan(toPlanInput(smallModel, correctDevices(devices, corrections), workload, 'hels'), nowMs);

test('a plan that does what it promised stays', () => {
  const { output, corrections } = trialOf([device('a', 1), device('b', 2)], 1, 0);
  expect(output.ranks).toHaveLength(2);
  expect(corrections).toBeNull();
});

test('ranks that slow each other down give way to the quickest of them alone', () => {
  const devices = [device('a', 1), device('b', 3)];
  const { corrections, measured } = trialOf(devices, 2, 0);
  expect([...(corrections?.leftOut ?? [])]).toEqual(['b']);
  expect(corrections?.reason).toContain('over a should take');
  const after = replanned(devices, corrections);
  expect(after.ranks.map(({ device: id }) => id)).toEqual(['a']);
  expect(after.predicted.decodeSeconds).toBeLessThan(0.95 * measured.stepSeconds);
});

test('meetings that cost more than the probe said make several ranks too dear', () => {
  const devices = [device('a', 1), device('b', 3), device('c', 3)];
  const { output, corrections } = trialOf(devices, 1, 0.05);
  expect(output.ranks.length).toBeGreaterThan(1);
  expect(corrections?.linkSeconds).toBeCloseTo(0.05, 9);
  expect(replanned(devices, corrections).ranks).toHaveLength(1);
});

test('workers of different machines are never left out for each other', () => {
  const devices = [device('a', 1), device('b', 1.5)];
  const apart = new Map([
    ['a', 'here'],
    ['b', 'there'],
  ]);
  const { corrections } = trialOf(devices, 1.2, 0, apart);
  expect(corrections).toBeNull();
});

test('a model that no device holds alone stays split however slow', () => {
  const room = 0.7 * wholeModelBytes();
  const devices = [device('a', 1, room), device('b', 3, room)];
  const { output, corrections } = trialOf(devices, 2, 0.01);
  expect(output.ranks).toHaveLength(2);
  expect(corrections).toBeNull();
});

test('corrections of other workers say nothing', () => {
  const devices = [device('a', 1), device('b', 3)];
  const { corrections } = trialOf(devices, 2, 0);
  const others = [device('a', 1), device('c', 3)];
  expect(correctDevices(others, corrections)).toEqual(others);
  expect(correctDevices([device('a', 1)], corrections)).toHaveLength(1);
  expect(correctDevices(devices, null)).toEqual(devices);
});

/** The least memory that holds everything: found by asking the planner. */
function wholeModelBytes(): number {
  let bytes = 2 ** 20;
  const fits = (memoryBytes: number) =>
    plan(toPlanInput(smallModel, [device('a', 1, memoryBytes)], workload, 'hels'), nowMs).feasible;
  while (!fits(bytes)) bytes *= 1.05;
  return bytes;
}
