import { z } from 'zod';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { LatencyLine, PlanModel } from '../../proto/domain/plan.ts';
import { nonEmptyText, numberFrom, parseChecked, positive } from '../planner/checked-schema.ts';

const cited = z.strictObject({ value: positive, source: nonEmptyText });
const citedOrNone = z.strictObject({ value: positive.nullable(), source: nonEmptyText });

const shareError = { error: 'must be a number above 0 and at most 1' };
/** A share of the datasheet's rate. */
export const attainedShare = z.number(shareError).positive(shareError).max(1, shareError);

const basis = z.enum(['measured', 'stated'], { error: 'must be measured or stated' });
const attained = z.strictObject({ value: attainedShare, basis, source: nonEmptyText });

const deviceProfile = z.strictObject({
  product: nonEmptyText,
  memoryBytes: cited,
  memoryBytesPerSecond: cited,
  /** Dense, with float32 accumulation, for weights of each type. */
  flopsPerSecond: z.strictObject({ f16: cited, bf16: cited, f32: cited }),
  /** One direction. */
  hostLinkBytesPerSecond: cited,
  /** One direction, to the other devices of the host; null: only over the host link. */
  interconnectBytesPerSecond: citedOrNone,
  efficiency: z.strictObject({
    /** Share of the memory bandwidth that a decode step attains. */
    memory: attained,
    /** Share of the arithmetic rate that a prefill step attains. */
    compute: attained,
    launchSecondsPerLayer: z.strictObject({ value: numberFrom(0), basis, source: nonEmptyText }),
  }),
});

/** A device as its datasheet gives it: each number with its source (`deploy/profiles/*.json`). */
export type DeviceProfile = z.infer<typeof deviceProfile>;

/** Checks a device profile; `name` is the file's. Throws config-invalid naming the first wrong field, its value and the allowed range. */
export function parseDeviceProfile(json: unknown, name: string): DeviceProfile {
  return parseChecked(deviceProfile, json, {
    what: `device profile '${name}'`,
    whole: 'the profile',
  });
}

/** What a device attains: datasheet rates times efficiencies. */
export interface AttainedRates {
  readonly bytesPerSecond: number;
  readonly flopsPerSecond: number;
  readonly launchSecondsPerLayer: number;
}

/** Efficiencies that replace the profile's. */
export interface EfficiencyOverrides {
  readonly memory?: number | undefined;
  readonly compute?: number | undefined;
  readonly launchSecondsPerLayer?: number | undefined;
}

export function attainedRates(
  profile: DeviceProfile,
  weightType: ModelSpec['weightType'],
  overrides: EfficiencyOverrides = {},
): AttainedRates {
  const { efficiency } = profile;
  const memory = overrides.memory ?? efficiency.memory.value;
  const compute = overrides.compute ?? efficiency.compute.value;
  return {
    bytesPerSecond: profile.memoryBytesPerSecond.value * memory,
    flopsPerSecond: profile.flopsPerSecond[weightType].value * compute,
    launchSecondsPerLayer:
      overrides.launchSecondsPerLayer ?? efficiency.launchSecondsPerLayer.value,
  };
}

/**
 * Latency lines of a device from what it attains: a roofline of two lines per phase (docs/planner.md, "Lines from a datasheet").
 *
 * With W parameters per unit (head group: layers*hiddenSize*headDim*(2*queryHeadsPerGroup + 2); FFN column: layers*ffnMatrices*hiddenSize;
 * vocabulary row: hiddenSize), B attained bytes per second and F attained operations per second:
 *
 * - memory-bound: every weight is read once a step: W*bytes/B per unit;
 * - compute-bound: every weight is multiplied and added once a token: 2*W/F per token and unit.
 *
 * Attention adds to both, because it runs after the products and not beside them. Decode reads the KV of every attended position:
 * layers*2*headDim*kvBytes/B per context token and head group, or the products with it, layers*4*queryHeadsPerGroup*headDim/F, if that is longer.
 * In prefill a tile of KV serves many tokens, so only the products count. Launches are layers*launchSecondsPerLayer in all lines.
 * Prefill multiplies the output matrix for the last token alone: its rows cost their bytes and nothing per token.
 */
export function profileLines(
  rates: AttainedRates,
  model: PlanModel,
): { decode: LatencyLine[]; prefill: LatencyLine[] } {
  const { layers, hiddenSize, headDim, queryHeadsPerGroup, ffnMatrices } = model;
  const parameters = {
    headGroup: layers * hiddenSize * headDim * (2 * queryHeadsPerGroup + 2),
    ffnColumn: layers * ffnMatrices * hiddenSize,
    vocabRow: hiddenSize,
  };
  const constant = layers * rates.launchSecondsPerLayer;
  const secondsPerParameter = model.weightBytesPerParam / rates.bytesPerSecond;
  const secondsPerHeadParameter =
    (model.headBytesPerParam ?? model.weightBytesPerParam) / rates.bytesPerSecond;
  const secondsPerProduct = 2 / rates.flopsPerSecond;
  const attentionProducts = (layers * 4 * queryHeadsPerGroup * headDim) / rates.flopsPerSecond;
  const attentionBytes = layers * 2 * headDim * model.kvBytesPerElement;
  const decodeAttention = Math.max(attentionProducts, attentionBytes / rates.bytesPerSecond);
  const memoryBound = {
    constant,
    perHeadGroup: parameters.headGroup * secondsPerParameter,
    perFfnColumn: parameters.ffnColumn * secondsPerParameter,
    perVocabRow: parameters.vocabRow * secondsPerHeadParameter,
  };
  const computeBound = {
    constant,
    perTokenHeadGroup: parameters.headGroup * secondsPerProduct,
    perTokenFfnColumn: parameters.ffnColumn * secondsPerProduct,
  };
  return {
    decode: [
      { ...memoryBound, perContextHeadGroup: decodeAttention },
      {
        ...computeBound,
        perTokenVocabRow: parameters.vocabRow * secondsPerProduct,
        perContextHeadGroup: decodeAttention,
      },
    ],
    prefill: [
      { ...memoryBound, perContextHeadGroup: attentionProducts },
      {
        ...computeBound,
        perVocabRow: memoryBound.perVocabRow,
        perContextHeadGroup: attentionProducts,
      },
    ],
  };
}
