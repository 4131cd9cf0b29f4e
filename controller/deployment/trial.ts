/**
 * A plan on trial: profiles are taken one device at a time and links in a tight loop, but ranks of one machine share its memory and
 * cores. The warm-up's steps tell what that costs; when another split promises clearly less, it is worth loading. Pure.
 */
import type { PlanInput } from '../../proto/domain/plan.ts';
import { plan } from '../planner/plan.ts';
import { plannedDecodeSeconds } from '../planner/planned-shares.ts';
import { type Choice, type Corrections, corrected } from './corrections.ts';
import { type MeasuredSteps, type plannedRanksOf, predictRank } from './plan-report.ts';

type Ranks = ReturnType<typeof plannedRanksOf>;

export interface Trial {
  input: PlanInput;
  ranks: Ranks;
  measured: MeasuredSteps;
  /** Where each worker runs, by worker id. */
  hostOf: ReadonlyMap<string, string>;
  nowMs: () => number;
}

/** Another split must promise this share of a step: profiles are kind, one rank alone took 2 to 13 % longer in service, and a load costs time. */
const gainMin = 0.1;

function withDevices(input: PlanInput, choice: Choice): PlanInput {
  const devices = input.devices.map((device) => ({
    ...device,
    decode: [device.decode].flat(),
    link: device.link ?? { constant: 0, perToken: 0 },
  }));
  return { ...input, devices: corrected(devices, choice) };
}

/** Of the planned ranks as measured; a device that sat out is held to be disturbed as much as the worst of its machine. */
function ratiosOf({ input, ranks, measured, hostOf }: Trial): Map<string, number> {
  const ratios = new Map<string, number>();
  for (const [index, rank] of ranks.entries()) {
    const predicted = predictRank(input, rank, measured);
    const seconds = measured.rankSeconds[index] ?? 0;
    if (predicted > 0 && seconds > 0) ratios.set(rank.device, seconds / predicted);
  }
  const worst = new Map<string, number>();
  for (const [id, ratio] of ratios) {
    const host = hostOf.get(id) ?? id;
    worst.set(host, Math.max(worst.get(host) ?? 0, ratio));
  }
  for (const { id } of input.devices) {
    if (!ratios.has(id)) ratios.set(id, worst.get(hostOf.get(id) ?? id) ?? 1);
  }
  return ratios;
}

/** All but one device of each machine: the quickest that holds the model alone, or the quickest when none does. */
function crowdOf({ input, hostOf, nowMs }: Trial): Set<string> {
  const alone = input.devices.map((device) => {
    const output = plan({ ...input, devices: [device] }, nowMs);
    return { id: device.id, seconds: output.predicted.decodeSeconds, fits: output.feasible };
  });
  alone.sort((a, b) => Number(b.fits) - Number(a.fits) || a.seconds - b.seconds);
  const taken = new Set<string>();
  const crowd = new Set<string>();
  for (const { id } of alone) {
    const host = hostOf.get(id) ?? id;
    if (taken.has(host)) crowd.add(id);
    taken.add(host);
  }
  return crowd;
}

const milliseconds = (seconds: number) => `${(1000 * seconds).toFixed(1)} ms`;

/** What neither kernels at these ratios nor waiting for slower ranks nor the probed links explain of the measured step. */
function unexplainedSeconds(
  { input, ranks, measured }: Trial,
  ratios: ReadonlyMap<string, number>,
): number {
  const sequences = Math.max(1, measured.sequences);
  const contextTokens = Math.max(1, Math.round(measured.contextTokens / sequences));
  const slowed = withDevices(input, { ratios, linkSeconds: 0, leftOut: new Set() });
  const workload = { ...input.workload, sequences, contextTokens };
  return Math.max(0, measured.stepSeconds - plannedDecodeSeconds({ ...slowed, workload }, ranks));
}

/** All devices as they served; and one of each machine, as quick as in its profile where it had neighbours. */
function choicesOf(trial: Trial): [Choice, ...Choice[]] {
  const { hostOf } = trial;
  const ratios = ratiosOf(trial);
  const linkSeconds = unexplainedSeconds(trial, ratios);
  const asServed = { ratios, linkSeconds, leftOut: new Set<string>() };
  const leftOut = crowdOf(trial);
  if (leftOut.size === 0) return [asServed];
  const crowded = new Set([...leftOut].map((id) => hostOf.get(id)));
  const others = [...ratios].filter(([id]) => !crowded.has(hostOf.get(id)));
  return [asServed, { ratios: new Map(others), linkSeconds, leftOut }];
}

/** null: the plan stays. `input` and `ranks` are of a plan that was free to choose its devices. */
export function judgeTrial(trial: Trial): Corrections | null {
  const { input, ranks, measured, nowMs } = trial;
  if (ranks.length < 2 || !(measured.stepSeconds > 0)) return null;
  const choices = choicesOf(trial);
  const servedSeconds = plannedDecodeSeconds(withDevices(input, choices[0]), ranks);
  let best: Corrections | null = null;
  let bestSeconds = (1 - gainMin) * servedSeconds;
  for (const choice of choices) {
    const { feasible, ranks: planned, predicted } = plan(withDevices(input, choice), nowMs);
    if (!feasible || predicted.decodeSeconds >= bestSeconds) continue;
    bestSeconds = predicted.decodeSeconds;
    const who = planned.map(({ device }) => device).join(', ');
    const reason =
      `steps take ${milliseconds(servedSeconds)} in service; ` +
      `a new split over ${who} should take ${milliseconds(bestSeconds)}`;
    best = { ...choice, workerIds: input.devices.map(({ id }) => id), reason };
  }
  return best;
}
