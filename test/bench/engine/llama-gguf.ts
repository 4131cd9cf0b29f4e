/** A Llama model directory (config.json, model.safetensors) as a GGUF file for llama.cpp: with the same weights, or quantised by its rules. */
import { renameSync, rmSync } from 'node:fs';
import { type FileHandle, open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type QuantizedType, quantizedBlocks } from './ggml-blocks.ts';
import { alignGguf, type GgufTensor, type GgufValue, ggufHead, ggufTensorBytes } from './gguf.ts';

/** bf16: as they are; else matrices in 8 or 4 bits, of 4 the head in 8, as with ours. */
export type WeightForm = 'bf16' | 'int8' | 'int4';

interface LlamaConfig {
  hidden_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  intermediate_size: number;
  rms_norm_eps: number;
  rope_theta: number;
  vocab_size: number;
  max_position_embeddings: number;
  bos_token_id: number;
  eos_token_id: number;
}

interface StoredTensor {
  dtype: string;
  shape: number[];
  data_offsets: [begin: number, end: number];
}

/** A tensor of the GGUF file and where its bytes come from. */
interface Conversion {
  tensor: GgufTensor;
  source: StoredTensor;
  /** Rows of a head are reordered for llama.cpp's rotation of neighbours; null: as they are. */
  headCount: number | null;
}

const namesOutsideLayers: Readonly<Record<string, string>> = {
  'model.embed_tokens.weight': 'token_embd.weight',
  'model.norm.weight': 'output_norm.weight',
  'lm_head.weight': 'output.weight',
};
const namesInLayers: Readonly<Record<string, string>> = {
  input_layernorm: 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  post_attention_layernorm: 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
};

/** llama.cpp's name of a tensor; throws for one that a plain Llama model does not have. */
export function ggufNameOf(name: string): string {
  const layer = /^model\.layers\.(\d+)\.(.+)\.weight$/.exec(name);
  const part = namesInLayers[layer?.[2] ?? ''];
  const found =
    layer !== null && part !== undefined
      ? `blk.${layer[1]}.${part}.weight`
      : namesOutsideLayers[name];
  if (found === undefined) throw new Error(`the tensor ${name} has no place in a Llama GGUF file`);
  return found;
}

/**
 * Rows (heads * headDim) of q_proj or k_proj from the order of Hugging Face, where row i turns with row i + headDim / 2 of its head,
 * to that of llama.cpp, where row 2i turns with row 2i + 1.
 */
export function interleaveHeads(weights: Buffer, heads: number, headDim: number): Buffer {
  const result = Buffer.alloc(weights.length);
  const rowBytes = weights.length / (heads * headDim);
  const half = headDim / 2;
  for (let row = 0; row < heads * headDim; row += 1) {
    const within = row % headDim;
    const target = row - within + (within < half ? 2 * within : 2 * (within - half) + 1);
    weights.copy(result, target * rowBytes, row * rowBytes, (row + 1) * rowBytes);
  }
  return result;
}

/** Types of tokens in a GGUF vocabulary. */
const normalToken = 1;
const byteToken = 6;
/** llama.cpp ends the process when its tokenizer misses a byte, and node-llama-cpp tokenizes as it loads. */
const firstByteToken = 4;

const isByteToken = (id: number) => id >= firstByteToken && id < firstByteToken + 256;

function tokenText(id: number): string {
  if (!isByteToken(id)) return `<${id}>`;
  const byte = id - firstByteToken;
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
}

/** The numbers of the model, and a vocabulary without meaning: the benchmark speaks in token ids. */
function metadataOf(config: LlamaConfig, headDim: number): Record<string, GgufValue> {
  const u32 = (value: number): GgufValue => ({ type: 'u32', value });
  const f32 = (value: number): GgufValue => ({ type: 'f32', value });
  const ids = Array.from({ length: config.vocab_size }, (_, id) => id);
  return {
    'general.architecture': { type: 'string', value: 'llama' },
    'llama.block_count': u32(config.num_hidden_layers),
    'llama.context_length': u32(config.max_position_embeddings),
    'llama.embedding_length': u32(config.hidden_size),
    'llama.feed_forward_length': u32(config.intermediate_size),
    'llama.attention.head_count': u32(config.num_attention_heads),
    'llama.attention.head_count_kv': u32(config.num_key_value_heads),
    'llama.attention.key_length': u32(headDim),
    'llama.attention.value_length': u32(headDim),
    'llama.attention.layer_norm_rms_epsilon': f32(config.rms_norm_eps),
    'llama.rope.dimension_count': u32(headDim),
    'llama.rope.freq_base': f32(config.rope_theta),
    'llama.vocab_size': u32(config.vocab_size),
    'tokenizer.ggml.model': { type: 'string', value: 'llama' },
    'tokenizer.ggml.tokens': { type: 'strings', value: ids.map(tokenText) },
    'tokenizer.ggml.scores': { type: 'f32s', value: ids.map(() => 0) },
    'tokenizer.ggml.token_type': {
      type: 'i32s',
      value: ids.map((id) => (isByteToken(id) ? byteToken : normalToken)),
    },
    'tokenizer.ggml.bos_token_id': u32(config.bos_token_id),
    'tokenizer.ggml.eos_token_id': u32(config.eos_token_id),
  };
}

const isHead = (name: string) => name === 'lm_head.weight' || name === 'model.embed_tokens.weight';

function matrixType(name: string, weights: WeightForm): 'bf16' | QuantizedType {
  if (weights === 'bf16') return 'bf16';
  return weights === 'int8' || isHead(name) ? 'q8_0' : 'q4_0';
}

function conversionOf(
  name: string,
  source: StoredTensor,
  config: LlamaConfig,
  weights: WeightForm,
): Conversion {
  const matrix = source.shape.length > 1;
  if (source.dtype !== 'BF16' && source.dtype !== 'F32') {
    throw new Error(`the tensor ${name} is ${source.dtype}; only BF16 and F32 are converted`);
  }
  // llama.cpp wants norms in f32.
  const type = matrix && source.dtype === 'BF16' ? matrixType(name, weights) : 'f32';
  let headCount: number | null = null;
  if (name.endsWith('q_proj.weight')) headCount = config.num_attention_heads;
  if (name.endsWith('k_proj.weight')) headCount = config.num_key_value_heads;
  return { tensor: { name: ggufNameOf(name), type, shape: source.shape }, source, headCount };
}

function widened(bf16: Buffer): Buffer {
  const wide = Buffer.alloc(bf16.length * 2);
  for (let index = 0; index < bf16.length; index += 2)
    bf16.copy(wide, 2 * index + 2, index, index + 2);
  return wide;
}

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  const { bytesRead } = await file.read(bytes, 0, length, position);
  if (bytesRead !== length) throw new Error(`model.safetensors ends early, at ${position}`);
  return bytes;
}

async function writeData(
  target: FileHandle,
  weights: FileHandle,
  dataBegin: number,
  conversions: readonly Conversion[],
): Promise<void> {
  for (const { tensor, source, headCount } of conversions) {
    const [begin, end] = source.data_offsets;
    let bytes = await readAt(weights, dataBegin + begin, end - begin);
    if (tensor.type === 'f32' && source.dtype === 'BF16') bytes = widened(bytes);
    if (headCount !== null) {
      bytes = interleaveHeads(bytes, headCount, (tensor.shape[0] ?? 0) / headCount);
    }
    if (tensor.type === 'q8_0' || tensor.type === 'q4_0')
      bytes = quantizedBlocks(bytes, tensor.type);
    await target.writeFile(bytes);
    const size = ggufTensorBytes(tensor);
    await target.writeFile(Buffer.alloc(alignGguf(size) - size));
  }
}

/** Writes the whole model to `file`, which appears only when it is complete. */
export async function writeLlamaGguf(
  modelDirectory: string,
  file: string,
  form: WeightForm = 'bf16',
): Promise<void> {
  const config = JSON.parse(
    await readFile(join(modelDirectory, 'config.json'), 'utf8'),
  ) as LlamaConfig;
  const weights = await open(join(modelDirectory, 'model.safetensors'));
  const unfinished = `${file}.${process.pid}`;
  try {
    const headBytes = Number((await readAt(weights, 0, 8)).readBigUInt64LE());
    const head = JSON.parse(String(await readAt(weights, 8, headBytes))) as Record<
      string,
      StoredTensor
    >;
    const conversions = Object.entries(head)
      .filter(([name]) => name !== '__metadata__')
      .map(([name, source]) => conversionOf(name, source, config, form));
    const query = conversions.find(({ tensor }) => tensor.name === 'blk.0.attn_q.weight');
    const headDim = (query?.tensor.shape[0] ?? 0) / config.num_attention_heads;
    const target = await open(unfinished, 'w');
    try {
      const tensors = conversions.map(({ tensor }) => tensor);
      await target.writeFile(ggufHead(metadataOf(config, headDim), tensors));
      await writeData(target, weights, 8 + headBytes, conversions);
    } finally {
      await target.close();
    }
    renameSync(unfinished, file);
  } finally {
    await weights.close();
    rmSync(unfinished, { force: true });
  }
}

/** The GGUF file beside a model directory of random-model.ts; written when it is not there yet. */
export async function randomModelGguf(
  modelDirectory: string,
  form: WeightForm = 'bf16',
): Promise<string> {
  const file = form === 'bf16' ? `${modelDirectory}.gguf` : `${modelDirectory}.${form}.gguf`;
  if ((await stat(file).catch(() => null)) === null) {
    await writeLlamaGguf(modelDirectory, file, form);
  }
  return file;
}
