import type { Quantization } from './quantization.ts';

/**
 * What the engine must know of a model: the arithmetic, freed of the vocabulary of its config.json.
 * Field names are equal in proto/hels/v1/common.proto and native/model/model_spec.h.
 */
export interface ModelSpec {
  /** llama, mistral, qwen2, qwen3, opt: for people; the arithmetic is in the fields below. */
  family: string;
  naming: 'llama' | 'opt';
  layers: number;
  hiddenSize: number;
  /** KV heads: the smallest attention unit that a split can move. */
  headGroups: number;
  /** Query heads that share one KV head. */
  queryHeadsPerGroup: number;
  headDim: number;
  ffnColumns: number;
  /** FFN columns whose partial product is summed in f32 before it enters the fixed-point sum; splits are multiples of it. */
  ffnGranule: number;
  /** gate and up (SwiGLU); false: one input matrix (OPT). */
  gatedMlp: boolean;
  vocabRows: number;
  /** Width of the token embedding; differs from hiddenSize with word_embed_proj_dim. */
  embeddingSize: number;
  maxPositions: number;
  normalization: 'rms' | 'layer';
  normEpsilon: number;
  /** false: the norm follows the residual sum (OPT-350m). */
  normBeforeBlock: boolean;
  finalNorm: boolean;
  activation: 'silu' | 'relu';
  position: 'rope' | 'learned';
  learnedPositionOffset: number;
  ropeTheta: number;
  ropeScaling: 'none' | 'linear' | 'llama3';
  ropeFactor: number;
  ropeLowFrequencyFactor: number;
  ropeHighFrequencyFactor: number;
  ropeOriginalMaxPositions: number;
  qkvBias: boolean;
  attentionOutputBias: boolean;
  mlpBias: boolean;
  /** Qwen3: RMS norm of each query and key head before RoPE. */
  queryKeyNorm: boolean;
  /** Per layer: positions that a token sees, itself included; 0 = all. */
  slidingWindows: number[];
  tiedEmbeddings: boolean;
  weightType: 'f32' | 'bf16' | 'f16';
  /** Of the layers' matrices and the head; weightType is then bf16. */
  quantization: Quantization;
}

/** Bytes of one weight in memory. */
export function bytesPerWeight(type: ModelSpec['weightType']): number {
  return type === 'f32' ? 4 : 2;
}

/** KV bytes of one token for `headGroups` head groups, all layers (design section 4). KV has the weights' type. */
export function kvBytesPerToken(model: ModelSpec, headGroups: number): number {
  return model.layers * 2 * headGroups * model.headDim * bytesPerWeight(model.weightType);
}
