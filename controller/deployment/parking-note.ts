import { formatBytes } from '../../proto/domain/device.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';

/** What people who gave host memory should know of what became of it; null when nobody gave any. Pure. */
export function parkingNote(
  plan: ShardPlan__Output,
  devices: readonly { readonly id: string; readonly hostMemoryBytes?: number }[],
): string | null {
  const hostOf = (workerId: string) =>
    devices.find(({ id }) => id === workerId)?.hostMemoryBytes ?? 0;
  if (!plan.ranks.some(({ workerId }) => hostOf(workerId) > 0)) return null;
  const { kvParkedBlocks, kvBlockTokens, kvBlocks } = plan;
  if (kvParkedBlocks > 0) {
    return `${kvParkedBlocks * kvBlockTokens} tokens of KV can be parked beside ${kvBlocks * kvBlockTokens} that run`;
  }
  const blockBytesOf = ({ kvBytes, kvDeviceBlocks }: (typeof plan.ranks)[number]) =>
    kvDeviceBlocks > 0 ? kvBytes / kvDeviceBlocks : 0;
  const short = plan.ranks.find((rank) => hostOf(rank.workerId) < blockBytesOf(rank));
  if (short === undefined) return 'no KV is parked: all sequences at full length can run at once';
  return `no KV is parked: worker '${short.workerId}' has ${formatBytes(hostOf(short.workerId))} of host memory, a block needs ${formatBytes(blockBytesOf(short))}; raise --device host=`;
}
