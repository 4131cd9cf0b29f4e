import { formatBytes } from '../../proto/domain/device.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import { kvBytesPerToken, type ModelSpec } from '../../proto/domain/model-spec.ts';
import type { Fence } from '../../proto/gen/hels/v1/Fence.ts';
import { fitLatency, type LatencyFit } from '../profiler/fit-latency.ts';
import type { LoadPoint } from '../profiler/latency-terms.ts';
import {
  gridKvTokensMax,
  measuringOrder,
  type ProfileLimits,
  profileGrid,
} from '../profiler/profile-grid.ts';
import type { EngineSizes } from './engine-sizes.ts';
import { byHost, type GroupWorker, type Progress } from './group-worker.ts';
import {
  loadRecord,
  type MeasurementStore,
  type ProfileRecord,
  profileKey,
} from './measurement-store.ts';

/** Over all points: more add little once a point is known from this many. */
const roundsMax = 5;
/** Of one device, all points: with its setting up, 10 seconds at most. */
const budgetMs = 9_000;
/** The point that is running when the budget ends still finishes. */
const profileDeadlineMs = 60_000;
/** The largest KV of the grid, all layers, as a share of the device's memory. Measured are few layers, which need less. */
const kvShare = 0.25;

export interface ProfileRun extends ProfileRecord {
  fit: LatencyFit;
  /** Taken from the store. */
  stored: boolean;
}

export interface MeasuringPorts {
  store: MeasurementStore;
  nowMs(): number;
  unixMs(): number;
}

export interface ProfileOptions extends EngineSizes {
  model: ModelSpec;
  fence: Fence;
  /** Measure also what is stored. */
  refresh: boolean;
  /** Lines of a grid for smaller steps will do: nobody waits for better ones, or requests wait for any. */
  smallerToo?: boolean;
}

type GridOptions = Omit<ProfileOptions, 'fence' | 'refresh'>;

/** That grids differ for, the largest first. */
const gridSizes: readonly EngineSizes[] = [256, 128, 64].flatMap((sequencesMax) =>
  [1024, 512].map((stepTokensMax) => ({ sequencesMax, stepTokensMax })),
);

/** Whose lines hold for these sizes: a grid for larger steps has the smaller ones in it. */
function sizesToLookUp({ sequencesMax, stepTokensMax, smallerToo }: GridOptions): EngineSizes[] {
  const others = gridSizes.filter(
    (grid) =>
      smallerToo === true ||
      (grid.sequencesMax >= sequencesMax && grid.stepTokensMax >= stepTokensMax),
  );
  return [{ sequencesMax, stepTokensMax }, ...others];
}

const powerOfTwo = (value: number) => 2 ** Math.floor(Math.log2(Math.max(1, value)));

/**
 * Rounded down to powers of two, so that a little more or less asks for the same grid and finds it in the store. Of all memory that the
 * device may use, not of what is free: after a loss, while it serves, it is looked up as when it was idle.
 */
function gridLimits(worker: GroupWorker, { model, ...sizes }: GridOptions): ProfileLimits {
  const useful = gridKvTokensMax * kvBytesPerToken(model, model.headGroups);
  const allowed = worker.device.memoryBytes * kvShare;
  return {
    kvBytesMax: allowed >= useful ? useful : powerOfTwo(allowed),
    stepTokensMax: powerOfTwo(sizes.stepTokensMax),
    sequencesMax: powerOfTwo(sizes.sequencesMax),
  };
}

async function measure(
  worker: GroupWorker,
  points: readonly LoadPoint[],
  { model, fence }: ProfileOptions,
  ports: MeasuringPorts,
  progress: (fraction: number) => void,
): Promise<ProfileRecord> {
  const order = measuringOrder(points.length);
  const startMs = ports.nowMs();
  const ordered = order.map((index) => points[index] as LoadPoint);
  const { seconds, copyBytesPerSecond } = await worker.client.profile(
    { fence, model, points: ordered, roundsMax, budgetMs },
    profileDeadlineMs,
    progress,
  );
  const secondsOf = new Map([...seconds].map(([at, value]) => [order[at] as number, value]));
  const measured = [...points.keys()].filter((index) => secondsOf.has(index));
  return {
    points: measured.map((index) => points[index] as LoadPoint),
    seconds: measured.map((index) => secondsOf.get(index) as number),
    copyBytesPerSecond,
    measuredUnixMs: ports.unixMs(),
    spentSeconds: (ports.nowMs() - startMs) / 1000,
  };
}

function gridOf(worker: GroupWorker, options: GridOptions) {
  const { model } = options;
  const points = profileGrid(model, gridLimits(worker, options));
  return { points, key: profileKey(worker, model, points) };
}

/** null: the worker was never measured for such steps. */
export async function storedProfile(
  worker: GroupWorker,
  options: GridOptions,
  store: MeasurementStore,
): Promise<ProfileRun | null> {
  for (const sizes of sizesToLookUp(options)) {
    const { key } = gridOf(worker, { ...options, ...sizes });
    const known = await loadRecord<ProfileRecord>(store, key);
    if (known !== null) {
      return { ...known, fit: fitLatency(known.points, known.seconds), stored: true };
    }
  }
  return null;
}

/** Not even one token of one sequence can be timed. */
function tooSmall({ id, device }: GroupWorker, { model }: GridOptions): HelsError {
  const token = kvBytesPerToken(model, model.headGroups);
  const least = 2 ** Math.ceil(Math.log2(token)) / kvShare;
  return new HelsError(
    'plan-infeasible',
    `device memory of worker '${id}' is ${formatBytes(device.memoryBytes)}: KV of one token of this model takes ${formatBytes(token)}, ` +
      `and to time it at least ${formatBytes(least)} is needed; raise memory= of its device, or drain it`,
    { field: 'device memory' },
  );
}

async function profileWorker(
  worker: GroupWorker,
  options: ProfileOptions,
  ports: MeasuringPorts,
  progress: (fraction: number) => void,
): Promise<ProfileRun> {
  const known = options.refresh ? null : await storedProfile(worker, options, ports.store);
  if (known !== null) return known;
  const { points, key } = gridOf(worker, options);
  if (points.length === 0) throw tooSmall(worker, options);
  const record = await measure(worker, points, options, ports, progress);
  const fit = fitLatency(record.points, record.seconds);
  await ports.store.saveMeasurement(key, JSON.stringify(record));
  return { ...record, fit, stored: false };
}

/** Latency lines of every worker by worker id: from the store, or from real kernels at the model's shapes. */
export async function profileWorkers(
  workers: readonly GroupWorker[],
  options: ProfileOptions,
  ports: MeasuringPorts,
  progress: Progress,
): Promise<Map<string, ProfileRun>> {
  const runs = new Map<string, ProfileRun>();
  const profileHost = async (host: readonly GroupWorker[]) => {
    for (const worker of host) {
      const run = await profileWorker(worker, options, ports, (fraction) =>
        progress(`${worker.id}: timing its kernels`, fraction),
      );
      if (run.stored) progress(`${worker.id}: its lines are stored`, 1);
      runs.set(worker.id, run);
    }
  };
  await Promise.all(byHost(workers).map(profileHost));
  return runs;
}
