import { formatBytes } from '../../proto/domain/device.ts';
import type { Candidate } from './evaluate.ts';
import type { Problem, Share } from './problem.ts';
import { isUsed, weightBytes } from './share-bytes.ts';

/** `3.20 GiB` also for sizes that are no whole number of bytes. */
const size = (bytes: number): string => formatBytes(Math.ceil(bytes));

/** Why no split fits: what the model needs in sum beside what the devices have. `proven`: the search was complete. */
export function noSplitReason(problem: Problem, proven: boolean): string {
  const { footprint } = problem;
  const weights =
    footprint.fixed +
    footprint.perHeadGroup * problem.headGroups +
    footprint.perColumn * problem.ffnColumns +
    footprint.perRow * problem.vocabRows;
  const residentTokens = problem.remote?.residentTokens ?? problem.residentTokens;
  const kv = residentTokens * footprint.kvPerTokenHeadGroup * problem.headGroups;
  const rooms = problem.devices.map((device) => device.roomBytes);
  const usable = rooms.filter((room) => room > footprint.fixed);
  // Every further device holds the embedding again.
  const room =
    usable.reduce((sum, bytes) => sum + bytes, 0) -
    footprint.fixed * Math.max(0, usable.length - 1);
  const needs = `${size(weights)} of weights and ${size(kv)} of KV for ${residentTokens} resident tokens`;
  if (usable.length === 0) {
    return `memory: no device holds even the token embedding (${size(footprint.fixed)}); the largest has ${size(Math.max(...rooms))}`;
  }
  const lacking = weights + kv - room;
  if (lacking <= 0) {
    const sums = `${needs} would fit into ${size(room)} in sum`;
    return proven
      ? `granularity: ${sums}, but whole head groups and granules do not fit the single devices`
      : `granularity: ${sums}, but no split was found; try a smaller ffnGranule or fewer devices`;
  }
  const constraint = weights > room ? 'memory' : 'kv';
  return `${constraint}: ${needs} are needed, the devices have ${size(room)} beside the replicated embedding; ${size(lacking)} lack`;
}

/** Why this split does not fit: the device that lacks most. */
export function misfitReason(problem: Problem, candidate: Candidate): string {
  const { footprint, residentTokens } = problem;
  let reason = '';
  let most = 0;
  for (const [index, device] of problem.devices.entries()) {
    const share = candidate.evaluation.shares[index] as Share;
    if (!isUsed(share)) continue;
    const weights = weightBytes(problem, share);
    const kv = residentTokens * footprint.kvPerTokenHeadGroup * share.headGroups;
    const lacking = weights + kv - device.roomBytes;
    if (lacking <= most) continue;
    most = lacking;
    const constraint = weights > device.roomBytes ? 'memory' : 'kv';
    reason =
      `${constraint}: device '${device.id}' has ${size(device.roomBytes)} for ${size(weights)} of weights ` +
      `and ${size(kv)} of KV (${share.headGroups} head groups, ${residentTokens} resident tokens); ${size(lacking)} lack`;
  }
  return reason === '' ? sharedRoomReason(problem, candidate) : reason;
}

/** All weights fit their devices, but the KV does not fit what they leave, taken together. */
function sharedRoomReason(problem: Problem, candidate: Candidate): string {
  const { remote, footprint } = problem;
  if (remote === null) return '';
  const { shares } = candidate.evaluation;
  const room = problem.devices.reduce((sum, device, index) => {
    const share = shares[index] as Share;
    return isUsed(share) ? sum + device.roomBytes - weightBytes(problem, share) : sum;
  }, 0);
  const kv = remote.residentTokens * footprint.kvPerTokenHeadGroup * problem.headGroups;
  return (
    `kv: the devices in use have ${size(Math.max(0, room))} in sum beside the weights for ${size(kv)} of KV ` +
    `(${remote.residentTokens} resident tokens) and the buffers of loans`
  );
}
