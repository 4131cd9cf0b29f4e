import { formatBytes } from '../../proto/domain/device.ts';
import { kvBytesPerToken } from '../../proto/domain/model-spec.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { ProfiledDevice } from '../profiler/plan-input.ts';
import type { MadePlan, PlanRequest } from './make-plan.ts';

type Device = Pick<ProfiledDevice, 'id' | 'memoryBytes' | 'reservedBytes' | 'hostMemoryBytes'>;

/** That the plan is for fewer sequences than asked for; null when it is not. Pure. */
export function settledNote(
  { input }: Pick<MadePlan, 'input'>,
  { workload, settles }: Pick<PlanRequest, 'workload' | 'settles'>,
): string | null {
  const { sequences, contextTokens } = input.workload;
  if (!settles || sequences === workload.sequences) return null;
  return `the workers hold KV of ${sequences} of ${workload.sequences} sequences of ${contextTokens} tokens: the plan is for these`;
}

/** What people who gave host memory should know of what became of it; null when nobody gave any. Pure. */
export function parkingNote(
  plan: ShardPlan__Output,
  {
    model,
    devices,
    workload,
    parks,
  }: { readonly devices: readonly Device[] } & Pick<PlanRequest, 'model' | 'workload' | 'parks'>,
): string | null {
  const deviceOf = (workerId: string) => devices.find(({ id }) => id === workerId);
  const hostOf = (workerId: string) => deviceOf(workerId)?.hostMemoryBytes ?? 0;
  if (!parks || !plan.ranks.some(({ workerId }) => hostOf(workerId) > 0)) return null;
  const { kvParkedBlocks, kvBlockTokens, kvBlocks } = plan;
  if (kvParkedBlocks > 0) {
    const runnable = kvBlocks * kvBlockTokens;
    const { sequences, contextTokens } = workload;
    const atOnce = Math.floor(runnable / contextTokens);
    const waits =
      atOnce < sequences
        ? `: of ${sequences} sequences of ${contextTokens} tokens ${atOnce} run at once, the others wait their turn`
        : '';
    return `${kvParkedBlocks * kvBlockTokens} tokens of KV can be parked beside ${runnable} that run${waits}`;
  }
  const places = plan.ranks.map(({ workerId, headGroups, weightBytes, ...rank }) => {
    const groups = (headGroups?.end ?? 0) - (headGroups?.begin ?? 0);
    const blockBytes = kvBlockTokens * kvBytesPerToken(model, groups);
    const device = deviceOf(workerId);
    const room = (device?.memoryBytes ?? 0) - (device?.reservedBytes ?? 0) - weightBytes;
    // What it holds for others has buffers beside it, and what it lends its own.
    const heldBytes = rank.kvBytes - rank.kvDeviceBlocks * blockBytes;
    const free = room - rank.kvBytes - heldBytes / model.layers;
    const lends = rank.kvDeviceBlocks < kvBlocks;
    return { workerId, blockBytes, holds: !lends && free >= blockBytes };
  });
  const short = places.find(
    ({ workerId, blockBytes, holds }) => !holds && hostOf(workerId) < blockBytes,
  );
  if (short === undefined) return 'no KV is parked: all sequences at full length can run at once';
  const { workerId, blockBytes } = short;
  return `no KV is parked: worker '${workerId}' has ${formatBytes(hostOf(workerId))} of host memory, a block needs ${formatBytes(blockBytes)}; raise --device host=`;
}
