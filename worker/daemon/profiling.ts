/** Timing this device's kernels for the controller: one run at a time, and the newest one wins. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { ProfileEvent } from '../../proto/gen/hels/v1/ProfileEvent.ts';
import type { ProfileRequest__Output } from '../../proto/gen/hels/v1/ProfileRequest.ts';
import type { ProfileRequest } from '../binding/native.ts';
import type { DeviceDescription } from './device.ts';
import { type Fence, showFence } from './fence.ts';
import { fenceOf, modelSpecOf } from './wire.ts';

export interface ProfilingPorts {
  /** Throws when the shard does not allow a measurement under this fence now. */
  refuseProfile(fence: Fence): void;
  describeDevice(): DeviceDescription;
  /** Seconds of one step at one point; off the event loop. */
  profileStep(request: ProfileRequest): Promise<number>;
}

interface Run {
  supersededBy: Fence | null;
  ended: Promise<void>;
}

export type Profile = (
  request: ProfileRequest__Output,
  send: (event: ProfileEvent) => void,
  cancelled: () => boolean,
) => Promise<void>;

/**
 * The returned call measures the points one after another, so that each event leaves as it is measured and a caller who goes away
 * stops the rest. The controller may begin a new deployment while the run of the last one is still here: that one ends with
 * stale-fence after the point it is at, and the new one waits for it, because two at once would measure each other.
 */
export function profiler(ports: ProfilingPorts): Profile {
  let current: Run | null = null;
  return async (request, send, cancelled) => {
    const fence = fenceOf(request);
    ports.refuseProfile(fence);
    const previous = current;
    if (previous !== null) previous.supersededBy = fence;
    let end = () => {};
    const run: Run = {
      supersededBy: null,
      ended: new Promise((resolve) => {
        end = resolve;
      }),
    };
    current = run;
    try {
      await previous?.ended;
      await measure(ports, request, send, () => {
        if (run.supersededBy !== null) {
          throw new HelsError(
            'stale-fence',
            `the profiling run of ${showFence(fence)} ended for that of ${showFence(run.supersededBy)}`,
            { field: 'fence' },
          );
        }
        ports.refuseProfile(fence);
        return cancelled();
      });
    } finally {
      if (current === run) current = null;
      end();
    }
  };
}

async function measure(
  { describeDevice, profileStep }: ProfilingPorts,
  request: ProfileRequest__Output,
  send: (event: ProfileEvent) => void,
  stops: () => boolean,
): Promise<void> {
  const model = modelSpecOf(request.model);
  const { repetitions } = request;
  for (const [index, point] of request.points.entries()) {
    if (stops()) return;
    const { threads = 1, speed = 1, memoryFreeBytes } = describeDevice();
    const options = {
      threads,
      speed: Number(speed),
      memoryBytes: memoryFreeBytes,
      numerics: 'exact' as const,
      kvBlockTokens: 16,
      kvBlocks: 0,
      stepTokensMax: point.tokens,
      sequencesMax: point.tokens,
      corruption: null,
    };
    send({ index, seconds: await profileStep({ model, options, point, repetitions }) });
  }
}
