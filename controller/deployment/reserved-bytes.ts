/**
 * What an engine allocates beside weights and KV, at most: of a rank that holds the whole model, since no share needs more. The sizes of
 * native/engine/scratch.cpp and native/engine/cuda/cuda_scratch.cpp; a rank that needs more than its plan counts with does not load. Pure.
 */
import { gpuLoanBlockTokens, loanBlockTokens } from '../../proto/domain/kv-residency.ts';
import { bytesPerWeight, type ModelSpec } from '../../proto/domain/model-spec.ts';
import type { ProfiledDevice } from '../profiler/plan-input.ts';
import { type EngineSizes, kvBlockTokens } from './engine-sizes.ts';

export interface ReservedFor extends EngineSizes {
  readonly model: ModelSpec;
  readonly numerics: 'exact' | 'fast';
  /** KV may lie on other ranks, which takes buffers. */
  readonly lends: boolean;
  /** Of the group, at most. */
  readonly ranks: number;
}

const MiB = 2 ** 20;
/** Staging of a load (1 MiB), workspaces of threads (at most 10 KiB each), alignment. */
const restBytes = 7 * MiB;
const logitRowsMax = 64;

const roundUp = (value: number, multiple: number) => Math.ceil(value / multiple) * multiple;

function columnsOf(model: ModelSpec) {
  const { headGroups, headDim, queryHeadsPerGroup, ffnColumns, gatedMlp } = model;
  const queries = headGroups * headDim * queryHeadsPerGroup;
  return {
    queries,
    queryKeyValue: queries + 2 * headGroups * headDim,
    mlp: (gatedMlp ? 2 : 1) * ffnColumns,
  };
}

/** Inputs of a token as the products of processors want them: as many as the deepest one has, in whole blocks of 32. */
function productBytesPerToken({ model, numerics }: ReservedFor): number {
  const inBlocks = (depth: number, granule: number) =>
    Math.ceil(depth / granule) * roundUp(granule, 32);
  const narrow = model.weightType === 'bf16';
  const depth = Math.max(
    (narrow ? 2 : 1) * roundUp(model.hiddenSize, 32),
    roundUp(model.embeddingSize, 32),
    inBlocks(columnsOf(model).queries, model.queryHeadsPerGroup * model.headDim),
    inBlocks(model.ffnColumns, model.ffnGranule),
  );
  if (numerics === 'fast') return depth * (narrow ? 10 : 8);
  return narrow ? 2 * (depth + 32) : 0;
}

function scratchBytesOfProcessor(reserved: ReservedFor): number {
  const { model, stepTokensMax, sequencesMax, ranks } = reserved;
  const { hiddenSize, embeddingSize, vocabRows } = model;
  const { queries, queryKeyValue, mlp } = columnsOf(model);
  const padding = 5 * 32;
  const perToken = 2 * hiddenSize + embeddingSize + queries + queryKeyValue + mlp + padding;
  const logits = logitRowsMax * (vocabRows + hiddenSize + embeddingSize);
  const sums = stepTokensMax * hiddenSize + 8 * vocabRows + 2 * ranks * sequencesMax;
  return (
    4 * (stepTokensMax * perToken + logits + model.maxPositions * model.headDim) +
    8 * sums +
    roundUp(stepTokensMax, 16) * productBytesPerToken(reserved)
  );
}

/** Of one sequence: parts of attention in chunks of 256 positions, the block table, candidates. */
function gpuBytesPerSequence({ model, ranks }: ReservedFor): { attention: number; rest: number } {
  const slots = Math.ceil(model.maxPositions / 256);
  const parts = 4 * columnsOf(model).queries * slots * (1 + 2 / model.headDim);
  const table = 4 * (Math.ceil(model.maxPositions / kvBlockTokens) + 4);
  const candidates = 2 * 8 * 2 * ranks + 32 * Math.ceil(model.vocabRows / 4096);
  return { attention: model.weightType === 'f32' ? 0 : parts, rest: table + candidates };
}

function scratchBytesOfGpu(reserved: ReservedFor): number {
  const { model, stepTokensMax, sequencesMax, numerics } = reserved;
  const { hiddenSize, embeddingSize, vocabRows, ffnColumns } = model;
  const { queries, queryKeyValue, mlp } = columnsOf(model);
  const narrow = bytesPerWeight(model.weightType);
  const tablesAndPadding = 48 + 256;
  const perToken =
    4 * (hiddenSize + queryKeyValue + mlp + (numerics === 'fast' ? hiddenSize : 0)) +
    narrow * (hiddenSize + 2 * queries + ffnColumns + embeddingSize) +
    8 * hiddenSize +
    tablesAndPadding;
  const logitRows = Math.min(stepTokensMax, Math.max(logitRowsMax, sequencesMax));
  const perLogitRow = 4 * (vocabRows + embeddingSize) + narrow * (hiddenSize + embeddingSize);
  const { attention, rest } = gpuBytesPerSequence(reserved);
  // Sequences take turns when all their parts would be more.
  const attentionBytes = Math.min(sequencesMax * attention, Math.max(128 * MiB, attention));
  const columns = Math.max(hiddenSize, embeddingSize, queryKeyValue, mlp, vocabRows);
  const productBytes = numerics === 'fast' ? 32 * MiB : 8 * 64 * Math.min(columns, 132 * 64);
  return (
    stepTokensMax * perToken +
    logitRows * perLogitRow +
    4 * model.maxPositions * model.headDim +
    8 * 8 * vocabRows +
    sequencesMax * rest +
    attentionBytes +
    productBytes
  );
}

/**
 * Buffers of a rank that lends or holds (exchangeBytesMax of native/engine/remote_traffic.h): queries, keys and values of as many tokens as
 * two blocks have, in both directions.
 */
function exchangeBytesOf({ model, stepTokensMax, ranks }: ReservedFor): number {
  const rows = 4 * Math.min(stepTokensMax, 2 * loanBlockTokens) * columnsOf(model).queryKeyValue;
  return 2 * (rows + (ranks + 1) * 64);
}

/** Floats of parts of all heads in a turn of attention over lent KV, where one token does not take more. */
const turnPartFloats = 2 ** 24;

/**
 * Of a rank on a GPU (native/engine/cuda/cuda_remote_attention.cpp): own parts, those for an owner, those in a message; rows; tables. Own
 * heads and an owner's are all heads at most.
 */
function exchangeBytesOfGpu({ model, stepTokensMax, sequencesMax, ranks }: ReservedFor): number {
  const { headGroups, headDim, maxPositions, slidingWindows, weightType } = model;
  const slots = Math.ceil(maxPositions / gpuLoanBlockTokens);
  const { queries, queryKeyValue } = columnsOf(model);
  const perToken = queries * slots * (1 + 2 / headDim);
  const parts = Math.min(stepTokensMax * perToken, Math.max(turnPartFloats, perToken));
  const rows = stepTokensMax * queryKeyValue * bytesPerWeight(weightType);
  const windows = Math.max(1, new Set(slidingWindows).size);
  const chunks = sequencesMax * slots * (1 + 4) + windows * stepTokensMax * (slots * 12 + 4);
  const turns = windows * Math.ceil(stepTokensMax / Math.max(1, Math.floor(parts / perToken)));
  // Its own, and each that it may hold KV of.
  const roles = Math.min(ranks, headGroups + 1);
  const pieces = 2 * roles + turns * (3 + 2 * ranks * roles);
  return 2 * 4 * parts + rows + roles * chunks + turns * 12 * sequencesMax + 16 * pieces;
}

/** `kind` of the device. */
export function reservedBytesOf(reserved: ReservedFor, kind: string): number {
  const isGpu = kind === 'cuda';
  const scratch = isGpu ? scratchBytesOfGpu(reserved) : scratchBytesOfProcessor(reserved);
  const exchange = isGpu ? exchangeBytesOfGpu(reserved) : exchangeBytesOf(reserved);
  return Math.ceil(scratch) + restBytes + (reserved.lends ? Math.ceil(exchange) : 0);
}

/** Devices whose engines were to be for `former`, once they are to be for `next`; `kinds` by id. */
export function reservedAnew(
  devices: readonly ProfiledDevice[],
  kinds: ReadonlyMap<string, string>,
  former: ReservedFor,
  next: ReservedFor,
): ProfiledDevice[] {
  return devices.map((one) => {
    const kind = kinds.get(one.id) ?? '';
    const change = reservedBytesOf(next, kind) - reservedBytesOf(former, kind);
    return { ...one, reservedBytes: one.reservedBytes + change };
  });
}
