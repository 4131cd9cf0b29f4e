/**
 * Model directories with random weights of a given shape, for benchmarks: speed does not depend on what the weights say. Kept from run
 * to run in a folder for temporary files; written beside their place and renamed, so that a broken run leaves none half done.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { formatBytes } from '../../proto/domain/device.ts';

export interface ModelShape {
  name: string;
  layers: number;
  hiddenSize: number;
  queryHeads: number;
  headGroups: number;
  ffnColumns: number;
  vocabRows: number;
  positions: number;
  tiedEmbeddings: boolean;
}

/** The shape of the 110-million-parameter model that small inference engines are often timed on. */
export const shape110M: ModelShape = {
  name: 'random-110m',
  layers: 12,
  hiddenSize: 768,
  queryHeads: 12,
  headGroups: 12,
  ffnColumns: 2048,
  vocabRows: 32_000,
  positions: 1024,
  tiedEmbeddings: true,
};

/** The shape of TinyLlama. */
export const shape1100M: ModelShape = {
  name: 'random-1.1b',
  layers: 22,
  hiddenSize: 2048,
  queryHeads: 32,
  headGroups: 4,
  ffnColumns: 5632,
  vocabRows: 32_000,
  positions: 2048,
  tiedEmbeddings: false,
};

interface Tensor {
  name: string;
  shape: number[];
  random: boolean;
}

const bytesPerWeight = 2;
const tokenizerSource = fileURLToPath(new URL('../../deploy/models/hels-tiny', import.meta.url));

function tensorsOf(shape: ModelShape): Tensor[] {
  const { hiddenSize, queryHeads, headGroups, ffnColumns, vocabRows } = shape;
  const keyValueSize = (hiddenSize / queryHeads) * headGroups;
  const matrix = (name: string, rows: number, columns: number) => ({
    name: `${name}.weight`,
    shape: [rows, columns],
    random: true,
  });
  const norm = (name: string) => ({ name: `${name}.weight`, shape: [hiddenSize], random: false });
  const layers = Array.from({ length: shape.layers }, (_, index) => {
    const layer = `model.layers.${index}`;
    return [
      norm(`${layer}.input_layernorm`),
      matrix(`${layer}.self_attn.q_proj`, hiddenSize, hiddenSize),
      matrix(`${layer}.self_attn.k_proj`, keyValueSize, hiddenSize),
      matrix(`${layer}.self_attn.v_proj`, keyValueSize, hiddenSize),
      matrix(`${layer}.self_attn.o_proj`, hiddenSize, hiddenSize),
      norm(`${layer}.post_attention_layernorm`),
      matrix(`${layer}.mlp.gate_proj`, ffnColumns, hiddenSize),
      matrix(`${layer}.mlp.up_proj`, ffnColumns, hiddenSize),
      matrix(`${layer}.mlp.down_proj`, hiddenSize, ffnColumns),
    ];
  });
  const head = shape.tiedEmbeddings ? [] : [matrix('lm_head', vocabRows, hiddenSize)];
  return [
    matrix('model.embed_tokens', vocabRows, hiddenSize),
    ...layers.flat(),
    norm('model.norm'),
    ...head,
  ];
}

const elementsOf = ({ shape }: Tensor) => shape.reduce((product, size) => product * size, 1);

/** Weights that a decode step of the whole model reads: all but the rows of an embedding that is not the head too. */
export function weightBytesPerStep(shape: ModelShape): number {
  const elements = tensorsOf(shape).reduce((sum, tensor) => sum + elementsOf(tensor), 0);
  const embedding = shape.tiedEmbeddings ? 0 : shape.vocabRows * shape.hiddenSize;
  return (elements - embedding) * bytesPerWeight;
}

function configOf(shape: ModelShape): object {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size: shape.hiddenSize,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.queryHeads,
    num_key_value_heads: shape.headGroups,
    intermediate_size: shape.ffnColumns,
    hidden_act: 'silu',
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    vocab_size: shape.vocabRows,
    max_position_embeddings: shape.positions,
    tie_word_embeddings: shape.tiedEmbeddings,
    bos_token_id: 1,
    eos_token_id: 3,
    torch_dtype: 'bfloat16',
  };
}

/** The bundled model's tokenizer with a word for each further row, so that every token has text. */
function writeTokenizer(directory: string, vocabRows: number): void {
  const read = (name: string) => readFileSync(join(tokenizerSource, name), 'utf8');
  const tokenizer = JSON.parse(read('tokenizer.json')) as {
    model: { vocab: Record<string, number> };
  };
  const { vocab } = tokenizer.model;
  const taken = new Set(Object.values(vocab));
  for (let id = 0; id < vocabRows; id += 1) if (!taken.has(id)) vocab[`Ġw${id}`] = id;
  writeFileSync(join(directory, 'tokenizer.json'), JSON.stringify(tokenizer));
  writeFileSync(join(directory, 'tokenizer_config.json'), read('tokenizer_config.json'));
}

/** bf16 bits of 2^16 numbers spread evenly over -0.035 to 0.035, a standard deviation of 0.02. */
function weightTable(): Uint16Array {
  const wide = Float32Array.from({ length: 2 ** 16 }, (_, i) => 0.07 * ((i + 0.5) / 2 ** 16 - 0.5));
  return new Uint16Array(wide.buffer).filter((_, index) => index % 2 === 1);
}

const bf16One = 0x3f80;
const chunkElements = 2 ** 22;

async function writeWeights(file: FileHandle, tensors: readonly Tensor[]): Promise<void> {
  const table = weightTable();
  const chunk = new Uint16Array(chunkElements);
  let state = 2_463_534_242;
  for (const tensor of tensors) {
    for (let left = elementsOf(tensor); left > 0; left -= chunkElements) {
      const part = chunk.subarray(0, Math.min(left, chunkElements));
      if (!tensor.random) part.fill(bf16One);
      for (let index = 0; tensor.random && index < part.length; index += 1) {
        // Marsaglia's xorshift: the same weights in every run.
        state ^= state << 13;
        state ^= state >>> 17;
        state ^= state << 5;
        part[index] = table[state & 0xffff] as number;
      }
      await file.writeFile(Buffer.from(part.buffer, part.byteOffset, part.byteLength));
    }
  }
}

function safetensorsHeader(tensors: readonly Tensor[]): Buffer {
  let offset = 0;
  const entries = tensors.map((tensor) => {
    const begin = offset;
    offset += elementsOf(tensor) * bytesPerWeight;
    return [tensor.name, { dtype: 'BF16', shape: tensor.shape, data_offsets: [begin, offset] }];
  });
  const text = JSON.stringify(Object.fromEntries(entries));
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([size, json]);
}

/** The directory of the model; written when it is not there yet. Throws before writing when the disk has no room. */
export async function randomModel(shape: ModelShape): Promise<string> {
  const cache = join(tmpdir(), 'hels-bench');
  const directory = join(cache, shape.name);
  if ((await stat(directory).catch(() => null))?.isDirectory()) return directory;
  mkdirSync(cache, { recursive: true });
  const tensors = tensorsOf(shape);
  const neededBytes = tensors.reduce((sum, tensor) => sum + elementsOf(tensor) * bytesPerWeight, 0);
  const { bavail, bsize } = statfsSync(cache);
  if (bavail * bsize < neededBytes * 1.1) {
    const free = formatBytes(bavail * bsize);
    throw new Error(
      `${cache} has ${free} free; the model ${shape.name} needs ${formatBytes(neededBytes)}`,
    );
  }
  const unfinished = `${directory}.${process.pid}`;
  mkdirSync(unfinished);
  try {
    writeFileSync(join(unfinished, 'config.json'), JSON.stringify(configOf(shape), null, 1));
    writeTokenizer(unfinished, shape.vocabRows);
    const file = await open(join(unfinished, 'model.safetensors'), 'w');
    try {
      await file.writeFile(safetensorsHeader(tensors));
      await writeWeights(file, tensors);
    } finally {
      await file.close();
    }
    renameSync(unfinished, directory);
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
  }
  return directory;
}
