/** Messages of proto/hels/v1/worker.proto <-> the types of the engine and of the shared language. Pure. */
import { type ErrorCode, HelsError, toHelsError } from '../../proto/domain/errors.ts';
import type { SamplingParameters } from '../../proto/domain/generation.ts';
import {
  checkResidency,
  type KvLoan,
  type KvMove,
  type KvResidency,
  residencyOf,
} from '../../proto/domain/kv-residency.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { Fence__Output } from '../../proto/gen/hels/v1/Fence.ts';
import type { ModelSpec__Output } from '../../proto/gen/hels/v1/ModelSpec.ts';
import type { Range__Output } from '../../proto/gen/hels/v1/Range.ts';
import type { SamplingParameters__Output } from '../../proto/gen/hels/v1/SamplingParameters.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { StepError } from '../../proto/gen/hels/v1/StepError.ts';
import type { StepRequest__Output } from '../../proto/gen/hels/v1/StepRequest.ts';
import type { StepResponse } from '../../proto/gen/hels/v1/StepResponse.ts';
import type { Range, ShardSpec, StepBatch, StepResult } from '../binding/engine-types.ts';
import { NativeError } from '../binding/native.ts';
import type { Fence } from './fence.ts';

/** Throws request-invalid naming `field` when a message that must be there is not. */
export function required<Message>(message: Message | null | undefined, field: string): Message {
  if (message === null || message === undefined) {
    throw new HelsError('request-invalid', `${field} is missing; it is required`, { field });
  }
  return message;
}

export function fenceOf(message: { fence: Fence__Output | null }): Fence {
  const { term, epoch } = required(message.fence, 'fence');
  return { term, epoch };
}

/** null: the request names none. */
export function previousOf(message: { previous: Fence__Output | null }): Fence | null {
  if (message.previous === null) return null;
  const { term, epoch } = message.previous;
  return { term, epoch };
}

/** Throws request-invalid unless there is a plan, of the epoch that the fence names. */
export function planOf(message: { plan: ShardPlan__Output | null }, { epoch }: Fence) {
  const plan = required(message.plan, 'plan');
  if (plan.epoch === epoch) return plan;
  throw new HelsError('request-invalid', `plan.epoch is ${plan.epoch}; the fence's is ${epoch}`, {
    field: 'plan.epoch',
  });
}

const words = {
  naming: ['llama', 'opt'],
  normalization: ['rms', 'layer'],
  activation: ['silu', 'relu'],
  position: ['rope', 'learned'],
  ropeScaling: ['none', 'linear', 'llama3'],
  weightType: ['f32', 'bf16', 'f16'],
  quantization: ['none', 'int8', 'int4'],
  numerics: ['exact', 'fast'],
} as const;

function word<Name extends keyof typeof words>(name: Name, value: string) {
  const allowed: readonly string[] = words[name];
  if (!allowed.includes(value)) {
    throw new HelsError(
      'request-invalid',
      `${name} is '${value}'; it must be one of ${allowed.join(', ')}`,
      { field: name },
    );
  }
  return value as (typeof words)[Name][number];
}

/** The engine checks the numbers themselves. */
export function modelSpecOf(message: ModelSpec__Output | null): ModelSpec {
  const model = required(message, 'model');
  return {
    ...model,
    naming: word('naming', model.naming),
    normalization: word('normalization', model.normalization),
    activation: word('activation', model.activation),
    position: word('position', model.position),
    ropeScaling: word('ropeScaling', model.ropeScaling),
    weightType: word('weightType', model.weightType),
    quantization: word('quantization', model.quantization),
  };
}

export function numericsOf(plan: ShardPlan__Output): 'exact' | 'fast' {
  return word('numerics', plan.numerics);
}

export function rangeOf(range: Range__Output | null): Range {
  return { begin: range?.begin ?? 0, end: range?.end ?? 0 };
}

/** This rank's share of the plan; refuses one that was made for another worker. */
export function shardSpecOf(plan: ShardPlan__Output, rank: number, workerId: string): ShardSpec {
  const own = plan.ranks.find((candidate) => candidate.rank === rank);
  if (own === undefined) {
    const field = 'rank';
    throw new HelsError('request-invalid', `rank is ${rank}; the plan has no such rank`, { field });
  }
  if (own.workerId !== workerId) {
    throw new HelsError(
      'request-invalid',
      `rank ${rank} of the plan belongs to worker '${own.workerId}'; this is '${workerId}'`,
      { field: 'rank' },
    );
  }
  return {
    rank,
    ranks: plan.ranks.length,
    headGroups: rangeOf(own.headGroups),
    ffnColumns: rangeOf(own.ffnColumns),
    vocabRows: rangeOf(own.vocabRows),
  };
}

/** Of the engine's options: where KV of this rank's heads lies (proto/domain/kv-residency.ts). */
export interface KvPlacement {
  kvParkedBlocks: number;
  kvDeviceBlocks: number;
  /** Of the whole group: a rank is owner of some and holder of others. The engine also needs the owner's heads. */
  kvLoans: (KvLoan & { headGroups: Range })[];
}

/** Throws request-invalid unless every address has one home. */
export function checkedResidency(plan: ShardPlan__Output): KvResidency {
  const residency = residencyOf(plan);
  checkResidency(residency);
  return residency;
}

export function kvPlacementOf(plan: ShardPlan__Output, rank: number): KvPlacement {
  const residency = checkedResidency(plan);
  const headGroupsOf = (owner: number) =>
    rangeOf(plan.ranks.find((candidate) => candidate.rank === owner)?.headGroups ?? null);
  return {
    kvParkedBlocks: residency.kvParkedBlocks,
    kvDeviceBlocks: residency.deviceBlocks[rank] ?? residency.kvBlocks,
    kvLoans: residency.loans.map((loan) => ({ ...loan, headGroups: headGroupsOf(loan.owner) })),
  };
}

function samplingOf(message: SamplingParameters__Output | null): SamplingParameters | null {
  if (message === null) return null;
  const { temperature, topP, topK, seed, logprobs = -1 } = message;
  return { temperature, topP, topK, seed, logprobs };
}

/** The engine checks the addresses: only it knows all of them. */
export function stepBatchOf(request: StepRequest__Output): StepBatch & { kvMoves: KvMove[] } {
  return {
    collectiveDeadlineMs: request.collectiveDeadlineMs,
    kvMoves: request.kvMoves.map(({ from, to }) => ({ from, to })),
    sequences: request.sequences.map((sequence) => ({
      slot: sequence.slot,
      takeSampled: sequence.takeSampled,
      tokens: Int32Array.from(sequence.tokens),
      startPosition: sequence.startPosition,
      blockTable: Int32Array.from(sequence.blockTable),
      sampling: samplingOf(sequence.sampling),
      bannedTokens: Int32Array.from(sequence.bannedTokens),
      returnLogits: sequence.returnLogits,
    })),
  };
}

/** Seconds of a step beside its kernels and sums. */
interface ResidencySeconds {
  moveSeconds?: number;
  remoteSeconds?: number;
}

export function stepResponseOf(
  fence: Fence,
  step: number,
  result: StepResult & ResidencySeconds,
): StepResponse {
  const { buffer, byteOffset, byteLength } = result.logits;
  return {
    fence,
    step,
    sampled: result.sampled,
    computeSeconds: result.computeSeconds,
    collectiveSeconds: result.collectiveSeconds,
    totalSeconds: result.totalSeconds,
    moveSeconds: result.moveSeconds ?? 0,
    remoteSeconds: result.remoteSeconds ?? 0,
    error: null,
    // Every supported host is little-endian, as the wire is.
    logits: Buffer.from(buffer, byteOffset, byteLength),
  };
}

/** How the native side names a sequence of the step: by its index in the batch, or by its slot. */
const indexNamed = [/^step, sequence (\d+): /, / partial sum of sequence (\d+) of the step/];
const slotNamed = / for slot (\d+) at position /;

function slotOf(message: string, { sequences }: Pick<StepBatch, 'sequences'>): number | null {
  const slot = slotNamed.exec(message)?.[1];
  if (slot !== undefined) return Number(slot);
  const index = indexNamed.map((pattern) => pattern.exec(message)?.[1]).find(Boolean);
  return index === undefined ? null : (sequences[Number(index)]?.slot ?? null);
}

/** The codes a StepError carries are those of native/base/error.h; a failure of ours travels as `internal` or by its own name. */
export function stepErrorOf(error: unknown, batch: Pick<StepBatch, 'sequences'>): StepError {
  if (error instanceof NativeError) {
    const { nativeCode: code, message } = error;
    const slot = slotOf(message, batch);
    return slot === null ? { code, message } : { code, message, slot };
  }
  const failure = toHelsError(error);
  const code: ErrorCode = failure.code;
  return { code, message: failure.message };
}
