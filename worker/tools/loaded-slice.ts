/** Which bytes of a tensor a rank reads, in file order: what native/engine/weight_loader.cpp does, told without loading. Pure. */
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import { groupCount } from '../../proto/domain/model-tensors.ts';
import type { Range, ShardSpec } from '../binding/engine-types.ts';
import type { TensorDescription } from '../binding/native.ts';
import { quantizedMatrices } from './quantized-tensors.ts';

/** Runs of neighbouring bytes: one for rows of a matrix, one in each row for columns of it. */
export interface LoadedSlice {
  runs: number;
  runBytes: number;
  /** Of the tensor, where the first run begins. */
  firstByte: number;
  /** From the start of a run to that of the next. */
  strideBytes: number;
}

export function sizeBytesOf({ runs, runBytes }: LoadedSlice): number {
  return runs * runBytes;
}

/** Where in the tensor a byte of the slice lies. */
export function tensorByteOf(slice: LoadedSlice, byte: number): number {
  const run = Math.floor(byte / slice.runBytes);
  return slice.firstByte + run * slice.strideBytes + (byte % slice.runBytes);
}

/** null: no rank reads anything of it. */
type Cut = 'whole' | { along: 'rows' | 'columns'; range: Range } | null;

interface ModuleCuts {
  /** Also of the integers and scales that replace a quantised weight. */
  weight: Cut;
  bias: Cut;
}

const times = ({ begin, end }: Range, factor: number): Range => ({
  begin: begin * factor,
  end: end * factor,
});

const columnParallel = (range: Range, bias: boolean): ModuleCuts => ({
  weight: { along: 'rows', range },
  bias: bias ? { along: 'rows', range } : null,
});

/** The bias is added once, after the sum over ranks. */
const rowParallel = (range: Range, bias: boolean): ModuleCuts => ({
  weight: { along: 'columns', range },
  bias: bias ? 'whole' : null,
});

const replicated = (there: boolean, bias = false): ModuleCuts => ({
  weight: there ? 'whole' : null,
  bias: there && bias ? 'whole' : null,
});

function layerCuts(model: ModelSpec, shard: ShardSpec): Record<string, ModuleCuts> {
  const { headDim, queryHeadsPerGroup, qkvBias, attentionOutputBias, mlpBias } = model;
  const queries = times(shard.headGroups, queryHeadsPerGroup * headDim);
  const keys = times(shard.headGroups, headDim);
  const norm = replicated(true, model.normalization === 'layer');
  const projections = {
    'self_attn.q_proj': columnParallel(queries, qkvBias),
    'self_attn.k_proj': columnParallel(keys, qkvBias),
    'self_attn.v_proj': columnParallel(keys, qkvBias),
  };
  const output = rowParallel(queries, attentionOutputBias);
  const mlpInput = columnParallel(shard.ffnColumns, mlpBias);
  const mlpOutput = rowParallel(shard.ffnColumns, mlpBias);
  if (model.naming === 'opt') {
    return {
      ...projections,
      ...{ 'self_attn.out_proj': output, fc1: mlpInput, fc2: mlpOutput },
      ...{ self_attn_layer_norm: norm, final_layer_norm: norm },
    };
  }
  return {
    ...projections,
    ...{ 'self_attn.o_proj': output },
    ...{ 'mlp.gate_proj': mlpInput, 'mlp.up_proj': mlpInput, 'mlp.down_proj': mlpOutput },
    ...{ input_layernorm: norm, post_attention_layernorm: norm },
    'self_attn.q_norm': replicated(model.queryKeyNorm),
    'self_attn.k_norm': replicated(model.queryKeyNorm),
  };
}

function cutsOf(model: ModelSpec, shard: ShardSpec, module: string): ModuleCuts | undefined {
  const decoder = model.naming === 'opt' ? 'model.decoder.' : 'model.';
  if (module.startsWith(`${decoder}layers.`)) {
    const [, layer = '', name = ''] = /\.layers\.(\d+)\.(.+)$/.exec(module) ?? [];
    const cuts = layerCuts(model, shard);
    return layer !== '' && Number(layer) < model.layers && Object.hasOwn(cuts, name)
      ? cuts[name]
      : undefined;
  }
  const projects = model.embeddingSize !== model.hiddenSize;
  const finalNorm = replicated(model.finalNorm, model.normalization === 'layer');
  const others: Record<string, ModuleCuts> = {
    [`${decoder}embed_tokens`]: replicated(true),
    [`${decoder}embed_positions`]: replicated(model.position === 'learned'),
    [`${decoder}project_in`]: replicated(projects),
    [`${decoder}project_out`]: replicated(projects),
    [`${decoder}${model.naming === 'opt' ? 'final_layer_norm' : 'norm'}`]: finalNorm,
    lm_head: model.tiedEmbeddings ? replicated(false) : columnParallel(shard.vocabRows, false),
  };
  return Object.hasOwn(others, module) ? others[module] : undefined;
}

/** A range of a matrix's columns as one of the tensor's, which packs several into a byte or has one scale for a group of them. */
function storedColumns(model: ModelSpec, module: string, part: string, range: Range): Range {
  const { bits = 8, granule = 1 } = quantizedMatrices(model).get(module) ?? {};
  const stored = (column: number): number => {
    if (part === 'scales') return groupCount(column, granule);
    return part === 'qweight' && bits === 4 ? Math.ceil(column / 2) : column;
  };
  return { begin: stored(range.begin), end: stored(range.end) };
}

/** What the rank reads of the tensor; null when it reads nothing. */
export function loadedSlice(
  model: ModelSpec,
  shard: ShardSpec,
  tensor: Pick<TensorDescription, 'name' | 'shape' | 'sizeBytes'>,
): LoadedSlice | null {
  const [, module = '', part = ''] = /^(.+)\.(weight|bias|qweight|scales)$/.exec(tensor.name) ?? [];
  const cuts = cutsOf(model, shard, module);
  const cut = (part === 'bias' ? cuts?.bias : cuts?.weight) ?? null;
  if (cut === null || tensor.sizeBytes === 0) return null;
  const [rows = 1] = tensor.shape;
  const rowBytes = tensor.sizeBytes / rows;
  const whole = { runs: 1, runBytes: tensor.sizeBytes, firstByte: 0, strideBytes: 0 };
  if (cut === 'whole') return whole;
  const { begin, end } =
    cut.along === 'rows' ? cut.range : storedColumns(model, module, part, cut.range);
  if (begin === end) return null;
  const unitBytes = cut.along === 'rows' ? rowBytes : rowBytes / (tensor.shape[1] ?? 1);
  const run = { runBytes: (end - begin) * unitBytes, firstByte: begin * unitBytes };
  return cut.along === 'rows'
    ? { ...whole, ...run }
    : { ...run, runs: rows, strideBytes: rowBytes };
}
