import { formatBytes } from '../../proto/domain/device.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import { warmUpSize } from './warm-up-size.ts';

/** Of a rank with heads. */
export interface KvRoom {
  readonly workerId: string;
  /** For KV, beside its weights and what is reserved. */
  readonly roomBytes: number;
  /** Of its own heads. */
  readonly blockBytes: number;
}

interface RoomRequest {
  readonly model: Pick<ModelSpec, 'maxPositions'>;
  readonly workload: { readonly sequences: number; readonly contextTokens: number };
  readonly kvBlockTokens: number;
}

/**
 * Throws plan-infeasible when the runnable blocks hold neither the warm-up nor one sequence of the plan: whole blocks take more room than
 * the tokens by which a split is said to fit.
 */
export function requireRoom(
  { model, workload, kvBlockTokens }: RoomRequest,
  kvBlocks: number,
  rooms: readonly KvRoom[],
): void {
  const { promptTokens, decodeTokens } = warmUpSize;
  const wanted = Math.max(promptTokens + decodeTokens, workload.contextTokens);
  const tokens = Math.min(wanted, model.maxPositions);
  const needed = Math.ceil(tokens / kvBlockTokens);
  if (kvBlocks >= needed || rooms.length === 0) return;
  const blocksOf = ({ roomBytes, blockBytes }: KvRoom) => roomBytes / blockBytes;
  const short = rooms.reduce((least, room) => (blocksOf(room) < blocksOf(least) ? room : least));
  throw new HelsError(
    'plan-infeasible',
    `KV: worker '${short.workerId}' has ${formatBytes(Math.floor(short.roomBytes))} for KV beside its weights and a block of ` +
      `${kvBlockTokens} tokens needs ${formatBytes(short.blockBytes)} there, so the group holds ${kvBlocks} blocks; ` +
      `one sequence of ${tokens} tokens takes ${needed}: raise memory= of its --device`,
  );
}

/** Throws plan-infeasible with the refusal of all KV resident when what runs and what waits hold less than the workload together. */
export function requireParked(
  { workload, kvBlockTokens }: RoomRequest,
  { kvBlocks, kvParkedBlocks }: { readonly kvBlocks: number; readonly kvParkedBlocks: number },
  refusal: string,
): void {
  const { sequences, contextTokens } = workload;
  const needed = sequences * Math.ceil(contextTokens / kvBlockTokens);
  if (kvBlocks + kvParkedBlocks >= needed) return;
  throw new HelsError(
    'plan-infeasible',
    `no split fits: ${refusal}; with host memory, ${kvBlocks * kvBlockTokens} tokens can run and ${kvParkedBlocks * kvBlockTokens} wait ` +
      `of ${needed * kvBlockTokens} that ${sequences} sequences of ${contextTokens} take: raise host= or memory= of each --device, or plan for less`,
  );
}
