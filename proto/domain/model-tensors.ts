/** Which tensors the files of a model have, and of what shapes: what native/engine/weight_loader.cpp reads of them. Pure. */
import type { ModelSpec } from './model-spec.ts';
import { groupInputs } from './quantization.ts';

/** How a matrix is quantised where its model is: its bits, and the columns whose groups are counted together. */
export interface QuantizedMatrix {
  bits: 8 | 4;
  granule: number;
}

/** As in files that are not quantised. */
export interface ModelTensor {
  name: string;
  shape: readonly number[];
  /** null: it never is. */
  quantized: QuantizedMatrix | null;
}

const layerNames = {
  llama: {
    attentionNorm: 'input_layernorm',
    attentionOutput: 'self_attn.o_proj',
    mlpNorm: 'post_attention_layernorm',
    mlpInput: 'mlp.up_proj',
    mlpOutput: 'mlp.down_proj',
  },
  opt: {
    attentionNorm: 'self_attn_layer_norm',
    attentionOutput: 'self_attn.out_proj',
    mlpNorm: 'final_layer_norm',
    mlpInput: 'fc1',
    mlpOutput: 'fc2',
  },
} as const;

function vector(name: string, length: number): ModelTensor {
  return { name, shape: [length], quantized: null };
}

function matrix(
  name: string,
  rows: number,
  columns: number,
  quantized: QuantizedMatrix | null = null,
): ModelTensor {
  return { name: `${name}.weight`, shape: [rows, columns], quantized };
}

function norm({ hiddenSize, normalization }: ModelSpec, name: string): ModelTensor[] {
  const weight = vector(`${name}.weight`, hiddenSize);
  return normalization === 'layer' ? [weight, vector(`${name}.bias`, hiddenSize)] : [weight];
}

function layerTensors(model: ModelSpec, prefix: string): ModelTensor[] {
  const { hiddenSize, headDim, headGroups, queryHeadsPerGroup, ffnColumns, ffnGranule } = model;
  const { qkvBias, attentionOutputBias, mlpBias } = model;
  const names = layerNames[model.naming];
  const groupQueries = queryHeadsPerGroup * headDim;
  const queries = headGroups * groupQueries;
  const bits = model.quantization === 'int4' ? 4 : 8;
  const linear = (
    name: string,
    [rows, columns]: [number, number],
    bias: boolean,
    granule: number,
  ) => [
    matrix(prefix + name, rows, columns, { bits, granule }),
    ...(bias ? [vector(`${prefix}${name}.bias`, rows)] : []),
  ];
  const fromHidden = (name: string, rows: number, bias: boolean) =>
    linear(name, [rows, hiddenSize], bias, hiddenSize);
  const headNorm = (name: string) =>
    model.queryKeyNorm ? [vector(`${prefix}self_attn.${name}.weight`, headDim)] : [];
  return [
    ...norm(model, prefix + names.attentionNorm),
    ...fromHidden('self_attn.q_proj', queries, qkvBias),
    ...fromHidden('self_attn.k_proj', headGroups * headDim, qkvBias),
    ...fromHidden('self_attn.v_proj', headGroups * headDim, qkvBias),
    ...headNorm('q_norm'),
    ...headNorm('k_norm'),
    ...linear(names.attentionOutput, [hiddenSize, queries], attentionOutputBias, groupQueries),
    ...norm(model, prefix + names.mlpNorm),
    ...(model.gatedMlp ? fromHidden('mlp.gate_proj', ffnColumns, mlpBias) : []),
    ...fromHidden(names.mlpInput, ffnColumns, mlpBias),
    ...linear(names.mlpOutput, [hiddenSize, ffnColumns], mlpBias, ffnGranule),
  ];
}

export function modelTensors(model: ModelSpec): ModelTensor[] {
  const { hiddenSize, embeddingSize, vocabRows } = model;
  const isOpt = model.naming === 'opt';
  const root = isOpt ? 'model.decoder.' : 'model.';
  const tensors = [matrix(`${root}embed_tokens`, vocabRows, embeddingSize)];
  if (model.position === 'learned') {
    const rows = model.learnedPositionOffset + model.maxPositions;
    tensors.push(matrix(`${root}embed_positions`, rows, hiddenSize));
  }
  if (embeddingSize !== hiddenSize) {
    tensors.push(matrix(`${root}project_in`, hiddenSize, embeddingSize));
    tensors.push(matrix(`${root}project_out`, embeddingSize, hiddenSize));
  }
  for (let layer = 0; layer < model.layers; layer += 1) {
    tensors.push(...layerTensors(model, `${root}layers.${layer}.`));
  }
  if (model.finalNorm) tensors.push(...norm(model, root + (isOpt ? 'final_layer_norm' : 'norm')));
  if (!model.tiedEmbeddings) {
    const quantized = { bits: 8, granule: embeddingSize } as const;
    tensors.push(matrix('lm_head', vocabRows, embeddingSize, quantized));
  }
  return tensors;
}

/** Groups of `columns` columns that begin with a granule. */
export function groupCount(columns: number, granule: number): number {
  const groups = (size: number) => Math.ceil(size / groupInputs);
  return Math.floor(columns / granule) * groups(granule) + groups(columns % granule);
}

/** The two tensors that a quantised matrix is kept as (docs/weight-format.md). `name`: of the one that they replace. */
export function quantizedParts(
  name: string,
  [rows = 0, columns = 0]: readonly number[],
  { bits, granule }: QuantizedMatrix,
) {
  const base = name.replace(/\.weight$/, '');
  const bytes = bits === 8 ? columns : Math.ceil(columns / 2);
  const groups = groupCount(columns, granule);
  return {
    integers: { name: `${base}.qweight`, dtype: bits === 8 ? 'I8' : 'U8', shape: [rows, bytes] },
    scales: { name: `${base}.scales`, dtype: 'F16', shape: [rows, groups] },
  };
}

/** A tensor that must be in the files. */
export interface NeededTensor {
  name: string;
  shape: readonly number[];
  /** As safetensors call them. */
  dtypes: readonly string[];
}

const readableTypes = ['F32', 'BF16', 'F16'];

/** `filesQuantized`: quantised in the files already, not only as they are loaded. */
export function neededTensors(model: ModelSpec, filesQuantized: boolean): NeededTensor[] {
  return modelTensors(model).flatMap(({ name, shape, quantized }) => {
    if (!filesQuantized || quantized === null) return [{ name, shape, dtypes: readableTypes }];
    const { integers, scales } = quantizedParts(name, shape, quantized);
    return [integers, scales].map(({ dtype, ...part }) => ({ ...part, dtypes: [dtype] }));
  });
}
