/** `verify`: runs a model over a split in this process and compares it with reference logits (design section 9). */
import { createHash } from 'node:crypto';
import { type ModelFiles, readModelFiles } from '../../proto/base/model-files.ts';
import { storedWeightType } from '../../proto/base/stored-weight-type.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import { modelSpecFromConfig, type WeightTypeOption } from '../../proto/domain/model-config.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { QuantizationOption } from '../../proto/domain/quantization.ts';
import type { EngineReport, ShardSpec } from '../binding/engine-types.ts';
import { inspectModel } from '../binding/native.ts';
import { type Corruption, corruptedTensorByte } from './corruption.ts';
import { divergenceOf } from './divergence.ts';
import { checkGoldenFits, type Golden, readGolden } from './golden.ts';
import { LocalRanks } from './local-ranks.ts';
import { parseRanks, splitModel } from './split.ts';

export interface VerifyOptions {
  model: string;
  golden: string;
  /** null: one rank. */
  ranks: string | null;
  /** auto: bf16 for files that are bf16, else f32. */
  dtype: WeightTypeOption;
  quantization: QuantizationOption;
  /** Tokens of one prefill step; null: the whole prompt. */
  chunk: number | null;
  corrupt: Corruption | null;
}

export interface VerifyReport {
  /** Largest absolute difference of a compared logit; NaN, null in JSON, when one is not a number. */
  maxDifference: number;
  /** Largest absolute logit of the reference. */
  maxLogit: number;
  /** Largest maxDifference allowed: a fraction of maxLogit by weight type; null with quantised weights. */
  tolerance: number | null;
  /** Mean over the compared positions, in nats, of the reference's distribution to the computed one. */
  klMean: number;
  /** Share of the compared positions at which both prefer the same token. */
  topTokenAgreement: number;
  weightType: ModelSpec['weightType'];
  quantization: ModelSpec['quantization'];
  greedyTokens: number[];
  greedyMatch: boolean;
  /** Over the f32 little-endian full rows of all compared positions, in order: one value for every split and chunk. */
  logitsSha256: string;
  /** Only with --corrupt: the named rank computed with the flipped byte. */
  corrupted?: true;
  ranks: VerifiedRank[];
  passed: boolean;
}

interface VerifiedRank {
  headGroups: [begin: number, end: number];
  ffnColumns: [begin: number, end: number];
  vocabRows: [begin: number, end: number];
  weightBytesLoaded: number;
  weightBytesReplicated: number;
  allReduceCount: number;
  allReduceBytes: number;
}

/** Of the largest |logit| of the reference. Quantised weights are held to the divergence instead. */
const relativeTolerance: Readonly<Record<ModelSpec['weightType'], number>> = {
  f32: 2e-4,
  bf16: 2e-2,
  f16: 2e-2,
};

/**
 * Largest mean KL divergence from the reference, in nats. Models with random weights, which small ones for tests are, come to 0.004 with
 * 8 bits and to 0.41 with 4; trained ones to less.
 */
const klTolerance = { int8: 0.02, int4: 1 } as const;

/** The model as it is verified: f16 weights as f32 unless f16 was asked for. */
async function verifiedModel(
  files: ModelFiles,
  { dtype, quantization }: VerifyOptions,
): Promise<ModelSpec> {
  const tensorType = await storedWeightType(files);
  const model = modelSpecFromConfig(files.config, { weightType: dtype, quantization, tensorType });
  return dtype === 'auto' && model.weightType === 'f16' ? { ...model, weightType: 'f32' } : model;
}

export async function verifyModel(options: VerifyOptions): Promise<VerifyReport> {
  const files = await readModelFiles(options.model, { tokenizer: 'optional' });
  const tensors = await inspectModel(files.directory);
  const model = await verifiedModel(files, options);
  const golden = await readGolden(options.golden);
  checkGoldenFits(golden, model);
  const shards = splitModel(
    model,
    options.ranks === null
      ? [{ headGroups: model.headGroups, ffnWeight: 1 }]
      : parseRanks(options.ranks),
  );
  const { corrupt } = options;
  const corruption =
    corrupt === null
      ? null
      : { ...corrupt, byte: corruptedTensorByte(corrupt, model, shards, tensors) };
  const longest = Math.max(
    golden.inputIds.length,
    golden.greedy.prompt.length + golden.greedy.tokens.length,
  );
  const ranks = await LocalRanks.start({
    directory: files.directory,
    model,
    shards,
    positionsMax: longest,
    chunk: Math.min(options.chunk ?? longest, longest),
    corruption,
  });
  try {
    const rows = await ranks.logits(golden.inputIds, golden.logitsFromPosition);
    const tokens = await ranks.greedy(golden.greedy.prompt, golden.greedy.tokens.length);
    const reports = await ranks.reports();
    if (corruption !== null && reports[corruption.rank]?.corrupted !== true) {
      const { rank, tensor, byte } = corruption;
      throw new HelsError('internal', `rank ${rank} did not load byte ${byte} of '${tensor}'`);
    }
    return makeReport({ golden, model, shards, rows, tokens, reports, corrupt });
  } finally {
    await ranks.close();
  }
}

interface Evidence {
  golden: Golden;
  model: ModelSpec;
  shards: readonly ShardSpec[];
  rows: readonly Float32Array[];
  tokens: number[];
  reports: readonly EngineReport[];
  corrupt: Corruption | null;
}

/** Pure. */
export function makeReport(evidence: Evidence): VerifyReport {
  const { golden, model, shards, rows, tokens, reports, corrupt } = evidence;
  const { maxDifference, maxLogit } = compareLogits(rows, golden.logits);
  const { klMean, topTokenAgreement } = divergenceOf(golden.logits, rows);
  const { quantization } = model;
  const tolerance = relativeTolerance[model.weightType] * maxLogit;
  const greedyMatch = matchGreedy(tokens, golden, tolerance);
  // Rounded weights may choose another token where two are close, so only f32 must match.
  const passed =
    quantization === 'none'
      ? maxDifference <= tolerance && (greedyMatch || model.weightType !== 'f32')
      : klMean <= klTolerance[quantization];
  return {
    maxDifference,
    maxLogit,
    tolerance: quantization === 'none' ? tolerance : null,
    klMean,
    topTokenAgreement,
    weightType: model.weightType,
    quantization,
    greedyTokens: tokens,
    greedyMatch,
    logitsSha256: hashRows(rows),
    ...(corrupt === null ? {} : { corrupted: true }),
    ranks: shards.map((shard, rank) => describeRank(shard, reports[rank])),
    passed,
  };
}

/** NaN anywhere makes maxDifference NaN, which passes no tolerance. */
export function compareLogits(
  rows: readonly Float32Array[],
  reference: readonly (readonly number[])[],
): { maxDifference: number; maxLogit: number } {
  let maxDifference = 0;
  let maxLogit = 0;
  for (const [position, expected] of reference.entries()) {
    for (const [index, value] of expected.entries()) {
      maxDifference = Math.max(maxDifference, Math.abs((rows[position]?.[index] ?? NaN) - value));
      maxLogit = Math.max(maxLogit, Math.abs(value));
    }
  }
  return { maxDifference, maxLogit };
}

/**
 * Equal up to the first difference, which is excused only where the reference itself tells that its two best tokens were closer than
 * the tolerance; what follows such a difference continues another text and is not compared.
 */
export function matchGreedy(tokens: readonly number[], golden: Golden, tolerance: number): boolean {
  const { tokens: expected, margins } = golden.greedy;
  const difference = expected.findIndex((token, index) => token !== tokens[index]);
  if (difference < 0) return true;
  const margin = margins?.[difference];
  return margin !== undefined && margin <= tolerance;
}

function hashRows(rows: readonly Float32Array[]): string {
  const hash = createHash('sha256');
  for (const row of rows) hash.update(new Uint8Array(row.buffer, row.byteOffset, row.byteLength));
  return hash.digest('hex');
}

function describeRank(shard: ShardSpec, report: EngineReport | undefined): VerifiedRank {
  const { headGroups, ffnColumns, vocabRows } = shard;
  return {
    headGroups: [headGroups.begin, headGroups.end],
    ffnColumns: [ffnColumns.begin, ffnColumns.end],
    vocabRows: [vocabRows.begin, vocabRows.end],
    weightBytesLoaded: report?.weightBytesLoaded ?? 0,
    weightBytesReplicated: report?.weightBytesReplicated ?? 0,
    allReduceCount: report?.allReduceCount ?? 0,
    allReduceBytes: report?.allReduceBytes ?? 0,
  };
}
