import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { Fence } from '../../proto/gen/hels/v1/Fence.ts';
import { fitLatency, type LatencyFit } from '../profiler/fit-latency.ts';
import { profileGrid } from '../profiler/profile-grid.ts';
import { byHost, type GroupWorker, type Progress } from './group-worker.ts';

/** Median of this many runs at each point. */
const repetitions = 3;
const profileDeadlineMs = 120_000;
/** The largest KV of the grid, as a share of what the device has free: measuring must not need what serving will hold. */
const kvShareOfFree = 0.25;

export interface ProfileRun {
  fit: LatencyFit;
  seconds: number;
}

/** By worker id; holds for one life of the worker and one model. */
export type KnownProfiles = Map<
  string,
  { incarnation: string; modelDigest: string; run: ProfileRun }
>;

async function profileWorker(
  worker: GroupWorker,
  model: ModelSpec,
  stepTokensMax: number,
  fence: Fence,
  nowMs: () => number,
  progress: (fraction: number) => void,
): Promise<ProfileRun> {
  const points = profileGrid(model, {
    kvBytesMax: worker.device.memoryFreeBytes * kvShareOfFree,
    stepTokensMax,
  });
  const startMs = nowMs();
  const seconds = await worker.client.profile(
    { fence, model, points, repetitions },
    profileDeadlineMs,
    (done) => progress(done / points.length),
  );
  return { fit: fitLatency(points, seconds), seconds: (nowMs() - startMs) / 1000 };
}

/** Latency lines of every worker, from real kernels at the model's shapes, by worker id. Measures only what `known` does not tell. */
export async function profileWorkers(
  workers: readonly GroupWorker[],
  model: { spec: ModelSpec; digest: string; stepTokensMax: number },
  fence: Fence,
  known: KnownProfiles,
  nowMs: () => number,
  progress: Progress,
): Promise<Map<string, ProfileRun>> {
  const runs = new Map<string, ProfileRun>();
  const { spec, digest: modelDigest, stepTokensMax } = model;
  const profileHost = async (host: readonly GroupWorker[]) => {
    for (const worker of host) {
      const { id, incarnation } = worker;
      const last = known.get(id);
      if (last?.incarnation === incarnation && last.modelDigest === modelDigest) {
        runs.set(id, last.run);
        continue;
      }
      const run = await profileWorker(worker, spec, stepTokensMax, fence, nowMs, (fraction) =>
        progress(`${id}: timing its kernels`, fraction),
      );
      runs.set(id, run);
      known.set(id, { incarnation, modelDigest, run });
    }
  };
  await Promise.all(byHost(workers).map(profileHost));
  return runs;
}
