/** Measures the points of a profiling request within its time budget. */
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { ProfileEvent } from '../../proto/gen/hels/v1/ProfileEvent.ts';
import type { ProfileRequest__Output } from '../../proto/gen/hels/v1/ProfileRequest.ts';
import type { EngineOptions } from '../binding/engine-types.ts';
import type { Profiler } from '../binding/native.ts';
import type { DeviceDescription } from './device.ts';
import type { NewestRun } from './newest-run.ts';
import type { Shard } from './shard.ts';
import { fenceOf, modelSpecOf } from './wire.ts';

export interface ProfilingPorts {
  shard: Pick<Shard, 'refuseProfile'>;
  /** All runs on the device. */
  measuring: NewestRun;
  describeDevice(): DeviceDescription;
  engineDevice: Pick<EngineOptions, 'device' | 'multiprocessors'>;
  openProfiler(model: ModelSpec, options: EngineOptions): Profiler;
  copyBandwidth(device: string): Promise<number>;
  /** Monotonic. */
  nowMs(): number;
}

/** Runs of a point in one round. */
const repetitions = 2;

export type Profile = (
  request: ProfileRequest__Output,
  send: (event: ProfileEvent) => void,
  cancelled: () => boolean,
) => Promise<void>;

/** A caller who goes away stops its run after the point being measured; a newer run ends it there. */
export function profiler(ports: ProfilingPorts): Profile {
  return async (request, send, cancelled) => {
    const fence = fenceOf(request);
    ports.shard.refuseProfile(fence);
    await ports.measuring.run(fence, async (requireNewest) => {
      const { model, options } = openingOf(ports, request);
      const native = ports.openProfiler(model, options);
      const stops = () => {
        requireNewest();
        ports.shard.refuseProfile(fence);
        return cancelled();
      };
      try {
        await measureRounds(ports, request, native, send, stops);
      } finally {
        await native.close();
      }
    });
  };
}

function openingOf(
  { describeDevice, engineDevice }: ProfilingPorts,
  request: ProfileRequest__Output,
): { model: ModelSpec; options: EngineOptions } {
  const { threads = 1, speed = 1, memoryFreeBytes } = describeDevice();
  const options: EngineOptions = {
    ...engineDevice,
    threads,
    speed: Number(speed),
    memoryBytes: memoryFreeBytes,
    numerics: 'exact',
    kvBlockTokens: 16,
    kvBlocks: 0,
    // Every point brings its own sizes.
    stepTokensMax: 1,
    sequencesMax: 1,
    corruption: null,
  };
  return { model: modelSpecOf(request.model), options };
}

/** Two rounds that agree so well are not disturbed: more would tell the same. */
const agreement = 0.02;

function isSettled(rounds: readonly number[]): boolean {
  const [least, next] = [...rounds].sort((left, right) => left - right);
  return least !== undefined && next !== undefined && next <= (1 + agreement) * least;
}

/** The lower median: what disturbs a measurement only adds to it. */
function settledSeconds(rounds: readonly number[]): number {
  const sorted = [...rounds].sort((left, right) => left - right);
  return sorted[Math.floor((sorted.length - 1) / 2)] as number;
}

/**
 * Round by round over all points, so that a disturbance spoils one value of many points rather than all of one; points that are settled or
 * have had their share of the budget are passed over, which leaves the later rounds to the disturbed and to the short ones. A point's event tells
 * what is known of it so far. When the budget ends in the first round, the last points stay unmeasured.
 */
async function measureRounds(
  { copyBandwidth, engineDevice, nowMs }: ProfilingPorts,
  request: ProfileRequest__Output,
  native: Profiler,
  send: (event: ProfileEvent) => void,
  stops: () => boolean,
): Promise<void> {
  const { points, budgetMs, roundsMax } = request;
  const startMs = nowMs();
  if (stops()) return;
  send({ copyBytesPerSecond: await copyBandwidth(engineDevice.device) });
  const measured = points.map((): number[] => []);
  const spentMs = points.map(() => 0);
  const shareMs = budgetMs / points.length;
  for (let round = 0; round < roundsMax; round += 1) {
    for (const [index, point] of points.entries()) {
      if ((spentMs[index] as number) >= shareMs || isSettled(measured[index] ?? [])) continue;
      const beginMs = nowMs();
      const leftMs = startMs + budgetMs - beginMs;
      if (stops() || leftMs <= 0) return;
      // An equal share of what is left for this round: what short points do not use goes to the long ones.
      const secondsMax = Math.min(leftMs / 1000 / (points.length - index), 3600);
      const seconds = await native.measure(point, repetitions, secondsMax);
      measured[index]?.push(seconds);
      spentMs[index] = (spentMs[index] as number) + nowMs() - beginMs;
      const rounds = (round + (index + 1) / points.length) / roundsMax;
      const progress = Math.min(1, Math.max(rounds, 1 - leftMs / budgetMs));
      send({ point: { index, seconds: settledSeconds(measured[index] ?? []), progress } });
    }
  }
}
