/**
 * Hugging Face config.json -> ModelSpec. Every field that changes the arithmetic is implemented or refused by name; absent fields
 * have the value of the family's configuration class in transformers. Pure.
 */
import { HelsError } from './errors.ts';
import { features, harmlessFields, harmlessOptFields } from './model-config-fields.ts';
import { ConfigReader, configError, isRecord } from './model-config-reader.ts';
import { readRope, unscaledRope } from './model-config-rope.ts';
import type { ModelSpec } from './model-spec.ts';
import { type QuantizationOption, readQuantization } from './quantization.ts';

export type WeightType = ModelSpec['weightType'];

export const weightTypeOptions = ['auto', 'f32', 'bf16', 'f16'] as const;
export type WeightTypeOption = (typeof weightTypeOptions)[number];

export interface ModelSpecOptions {
  /** How weights are kept in memory; auto (default) keeps the type of the files. */
  weightType?: WeightTypeOption;
  /** Quantises a model whose files are not; auto (default) keeps what they are. */
  quantization?: QuantizationOption;
  /** What the files' weights are. Without it, where no weights are at hand, config.json says it (`torch_dtype`, `dtype`). */
  tensorType?: WeightType | null;
}

const architectures: Readonly<Record<string, (config: ConfigReader) => FamilySpec>> = {
  LlamaForCausalLM: readLlama,
  MistralForCausalLM: readMistral,
  Qwen2ForCausalLM: readQwen2,
  Qwen3ForCausalLM: readQwen3,
  OPTForCausalLM: readOpt,
};

/** Throws model-invalid naming the field, its value and what is allowed. */
export function modelSpecFromConfig(config: unknown, options: ModelSpecOptions = {}): ModelSpec {
  if (!isRecord(config)) throw configError('the file', config, 'it must be a JSON object');
  const reader = new ConfigReader(config);
  const names = reader.raw('architectures');
  const name = Array.isArray(names) && names.length === 1 ? String(names[0]) : '';
  const readFamily = Object.hasOwn(architectures, name) ? architectures[name] : undefined;
  if (readFamily === undefined) {
    throw configError(
      'architectures',
      config['architectures'],
      `Hels serves exactly one of ${Object.keys(architectures).join(', ')}`,
    );
  }
  refuseForeign(reader);
  const quantization = readQuantization(reader, options.quantization ?? 'auto');
  const weightType = readWeightType(reader, options, quantization !== 'none');
  const spec = { ...readFamily(reader), weightType, quantization };
  requireWholeFours(spec);
  // transformers chooses the arithmetic by the model type.
  reader.word('model_type', [spec.family], spec.family);
  reader.refuseUnread(spec.naming === 'opt' ? harmlessOptFields : harmlessFields, features);
  return spec;
}

/**
 * Columns per granule: a sixteenth of the columns, rounded up to a multiple of 8, so at most 16 granules per matrix and whole SIMD
 * vectors in each. It is part of the numerics of a model: a granule's partial product is summed in f32 before it enters the
 * fixed-point sum, so this rule must not change for a model once served.
 */
export function ffnGranuleOf(ffnColumns: number): number {
  return Math.ceil(Math.ceil(ffnColumns / 16) / 8) * 8;
}

/** Products take bf16 inputs four at a time, and each head group is summed by itself. */
function requireWholeFours(spec: ModelSpec): void {
  const { weightType, queryHeadsPerGroup, headDim, headGroups } = spec;
  if (weightType !== 'bf16' || headGroups === 1 || (queryHeadsPerGroup * headDim) % 4 === 0) return;
  const heads = queryHeadsPerGroup === 1 ? '1 query head' : `${queryHeadsPerGroup} query heads`;
  throw configError(
    'head_dim',
    headDim,
    `with bf16 weights, as quantised ones are, ${heads} of a group times head_dim must be a multiple of 4; f32 and f16 need no such`,
  );
}

type FamilySpec = Omit<ModelSpec, 'weightType' | 'quantization'>;

const sizes = { low: 1, high: 2 ** 20 };
/** Columns come in granules, of at least 8. */
const columns = { low: 8, high: sizes.high };

/** Fields of other kinds of models that any config.json may carry with their "off" value. */
function refuseForeign(config: ConfigReader): void {
  config.mustBe('is_encoder_decoder', false, 'decoder-only models');
  config.mustBe('add_cross_attention', false, 'decoder-only models');
  const pruned = config.record('pruned_heads');
  if (pruned !== null && Object.keys(pruned).length > 0) {
    throw configError('pruned_heads', pruned, 'pruned heads are not supported; it must be {}');
  }
}

const typeNames: Readonly<Record<string, WeightType>> = {
  float32: 'f32',
  bfloat16: 'bf16',
  float16: 'f16',
};

/** What is not quantised of a quantised model, and its KV, is bf16. */
function readWeightType(
  config: ConfigReader,
  options: ModelSpecOptions,
  quantized: boolean,
): WeightType {
  const field = config.raw('dtype') !== null ? 'dtype' : 'torch_dtype';
  const words = [...Object.keys(typeNames), 'auto'];
  const named = typeNames[config.word(field, words, 'auto')];
  config.raw('torch_dtype');
  const option = options.weightType ?? 'auto';
  if (quantized && option !== 'auto' && option !== 'bf16') {
    throw new HelsError('config-invalid', `weight type ${option}: quantised weights need bf16`, {
      field: 'dtype',
    });
  }
  if (quantized) return 'bf16';
  if (option !== 'auto') return option;
  return options.tensorType ?? named ?? 'f32';
}

interface DecoderShape {
  layers: number;
  hiddenSize: number;
  queryHeads: number;
  headGroups: number;
  headDim: number;
  maxPositions: number;
}

function readShape(
  config: ConfigReader,
  options: { headDimOtherwise?: number } = {},
): DecoderShape {
  const hiddenSize = config.integer('hidden_size', sizes);
  const queryHeads = config.integer('num_attention_heads', { low: 1, high: 65_536 });
  const headGroups = config.integer('num_key_value_heads', {
    low: 1,
    high: queryHeads,
    otherwise: queryHeads,
  });
  if (queryHeads % headGroups !== 0) {
    throw configError(
      'num_key_value_heads',
      headGroups,
      `it must divide num_attention_heads (${queryHeads})`,
    );
  }
  if (config.raw('head_dim') === null && hiddenSize % queryHeads !== 0) {
    throw configError(
      'hidden_size',
      hiddenSize,
      `without head_dim it must be a multiple of num_attention_heads (${queryHeads})`,
    );
  }
  const headDim = config.integer('head_dim', {
    low: 2,
    high: 1024,
    otherwise: options.headDimOtherwise ?? hiddenSize / queryHeads,
  });
  return {
    layers: config.integer('num_hidden_layers', { low: 1, high: 1024 }),
    hiddenSize,
    queryHeads,
    headGroups,
    headDim,
    maxPositions: config.integer('max_position_embeddings', { low: 1, high: 2 ** 27 }),
  };
}

/** What Llama, Mistral and Qwen have in common: pre-norm blocks of rotary attention and a SwiGLU MLP. */
function readRotary(config: ConfigReader, family: string, shape: DecoderShape): FamilySpec {
  if (shape.headDim % 2 !== 0) {
    throw configError('head_dim', shape.headDim, 'rotary positions need an even number');
  }
  config.word('hidden_act', ['silu', 'swish'] as const, 'silu');
  const ffnColumns = config.integer('intermediate_size', columns);
  return {
    family,
    naming: 'llama',
    layers: shape.layers,
    hiddenSize: shape.hiddenSize,
    headGroups: shape.headGroups,
    queryHeadsPerGroup: shape.queryHeads / shape.headGroups,
    headDim: shape.headDim,
    ffnColumns,
    ffnGranule: ffnGranuleOf(ffnColumns),
    gatedMlp: true,
    vocabRows: config.integer('vocab_size', { low: 1, high: 2 ** 24 }),
    embeddingSize: shape.hiddenSize,
    maxPositions: shape.maxPositions,
    normalization: 'rms',
    normEpsilon: config.number('rms_norm_eps', { low: 1e-12, high: 1, otherwise: 1e-6 }),
    normBeforeBlock: true,
    finalNorm: true,
    activation: 'silu',
    position: 'rope',
    learnedPositionOffset: 0,
    ...readRope(config, shape.maxPositions),
    qkvBias: false,
    attentionOutputBias: false,
    mlpBias: false,
    queryKeyNorm: false,
    slidingWindows: Array<number>(shape.layers).fill(0),
    tiedEmbeddings: config.boolean('tie_word_embeddings', false),
  };
}

function readLlama(config: ConfigReader): FamilySpec {
  const attentionBias = config.boolean('attention_bias', false);
  return {
    ...readRotary(config, 'llama', readShape(config)),
    qkvBias: attentionBias,
    attentionOutputBias: attentionBias,
    mlpBias: config.boolean('mlp_bias', false),
  };
}

/** Positions a token sees, 0 = all. The class default is 4096, so an absent field is not the same as null. */
function readWindow(config: ConfigReader): number {
  if (!config.has('sliding_window')) return 4096;
  if (config.raw('sliding_window') === null) return 0;
  return config.integer('sliding_window', { low: 1, high: 2 ** 31 - 1 });
}

function readMistral(config: ConfigReader): FamilySpec {
  const spec = readRotary(config, 'mistral', readShape(config));
  const window = readWindow(config);
  return { ...spec, slidingWindows: spec.slidingWindows.map(() => window) };
}

function readQwen2(config: ConfigReader): FamilySpec {
  const spec = readRotary(config, 'qwen2', readShape(config));
  return { ...spec, qkvBias: true, slidingWindows: readQwenWindows(config, spec.layers) };
}

function readQwen3(config: ConfigReader): FamilySpec {
  const spec = readRotary(config, 'qwen3', readShape(config, { headDimOtherwise: 128 }));
  const attentionBias = config.boolean('attention_bias', false);
  return {
    ...spec,
    qkvBias: attentionBias,
    attentionOutputBias: attentionBias,
    queryKeyNorm: true,
    slidingWindows: readQwenWindows(config, spec.layers),
  };
}

/** Qwen: with use_sliding_window the layers from max_window_layers on have the window, unless layer_types names each layer. */
function readQwenWindows(config: ConfigReader, layers: number): number[] {
  const written = readWindow(config);
  const window = config.boolean('use_sliding_window', false) ? written : 0;
  const firstLayer = config.integer('max_window_layers', {
    low: 0,
    high: 2 ** 31 - 1,
    otherwise: 28,
  });
  const types = config.raw('layer_types');
  if (types === null) {
    return Array.from({ length: layers }, (_, layer) => (layer >= firstLayer ? window : 0));
  }
  if (!Array.isArray(types) || types.length !== layers) {
    throw configError(
      'layer_types',
      types,
      `it must name the type of each of the ${layers} layers`,
    );
  }
  return types.map((type: unknown, layer) => {
    if (type === 'full_attention') return 0;
    if (type === 'sliding_attention' && window > 0) return window;
    throw configError(
      `layer_types[${layer}]`,
      type,
      'it must be full_attention, or sliding_attention with use_sliding_window and sliding_window set',
    );
  });
}

/** OPT: learned positions, LayerNorm, ReLU; every attention head is its own group. */
function readOpt(config: ConfigReader): FamilySpec {
  const shape = readShape(config);
  if (shape.headGroups !== shape.queryHeads) {
    throw configError('num_key_value_heads', shape.headGroups, 'OPT has no grouped heads');
  }
  if (shape.headDim * shape.queryHeads !== shape.hiddenSize) {
    throw configError('head_dim', shape.headDim, 'OPT needs hidden_size / num_attention_heads');
  }
  config.word('activation_function', ['relu'] as const, 'relu');
  config.mustBe('layer_norm_elementwise_affine', true, 'layer norms have weights and biases');
  const bias = config.boolean('enable_bias', true);
  const normBeforeBlock = config.boolean('do_layer_norm_before', true);
  const finalNormRemoved = config.boolean('_remove_final_layer_norm', false);
  const ffnColumns = config.integer('ffn_dim', columns);
  return {
    family: 'opt',
    naming: 'opt',
    layers: shape.layers,
    hiddenSize: shape.hiddenSize,
    headGroups: shape.headGroups,
    queryHeadsPerGroup: 1,
    headDim: shape.headDim,
    ffnColumns,
    ffnGranule: ffnGranuleOf(ffnColumns),
    gatedMlp: false,
    vocabRows: config.integer('vocab_size', { low: 1, high: 2 ** 24 }),
    embeddingSize: config.integer('word_embed_proj_dim', { ...sizes, otherwise: shape.hiddenSize }),
    maxPositions: shape.maxPositions,
    normalization: 'layer',
    normEpsilon: 1e-5,
    normBeforeBlock,
    finalNorm: normBeforeBlock && !finalNormRemoved,
    activation: 'relu',
    position: 'learned',
    learnedPositionOffset: 2,
    ...unscaledRope,
    qkvBias: bias,
    attentionOutputBias: bias,
    mlpBias: bias,
    queryKeyNorm: false,
    slidingWindows: Array<number>(shape.layers).fill(0),
    tiedEmbeddings: config.boolean('tie_word_embeddings', true),
  };
}
