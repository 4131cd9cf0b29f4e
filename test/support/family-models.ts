/** Small model directories of families that have no reference logits: config.json with the fields of the published models, random weights. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ConfigFields } from './reference-model.ts';
import { type StoredTensor, type Tensors, writeSafetensors } from './safetensors.ts';

export interface Family {
  name: string;
  config: ConfigFields;
  /** Names of linear layers, within a layer, that have a bias. */
  biases: string[];
  /** `--ranks` with every kind of rank. */
  ranks: string;
}

const rotary = {
  vocab_size: 97,
  hidden_size: 48,
  intermediate_size: 88,
  num_hidden_layers: 3,
  num_attention_heads: 6,
  hidden_act: 'silu',
  max_position_embeddings: 256,
  rms_norm_eps: 1e-6,
  initializer_range: 0.02,
  use_cache: true,
  torch_dtype: 'float32',
};
const opt = {
  architectures: ['OPTForCausalLM'],
  model_type: 'opt',
  vocab_size: 97,
  hidden_size: 48,
  ffn_dim: 104,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  activation_function: 'relu',
  max_position_embeddings: 128,
  torch_dtype: 'float32',
};
const attention = ['q', 'k', 'v', 'o'].map((name) => `self_attn.${name}_proj`);
const mlp = ['gate', 'up', 'down'].map((name) => `mlp.${name}_proj`);
const optBiases = [...attention.slice(0, 3), 'self_attn.out_proj', 'fc1', 'fc2'];

export const families: readonly Family[] = [
  {
    name: 'Llama 2: a KV head for each query head, untied',
    config: {
      ...rotary,
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      num_key_value_heads: 6,
      rope_theta: 10_000,
      rope_scaling: null,
      pretraining_tp: 1,
      tie_word_embeddings: false,
    },
    biases: [],
    ranks: '3/1,0/2,3/0',
  },
  {
    name: 'Llama with biases everywhere and linear RoPE scaling',
    config: {
      ...rotary,
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      num_key_value_heads: 2,
      attention_bias: true,
      mlp_bias: true,
      rope_theta: 10_000,
      rope_scaling: { type: 'linear', factor: 4 },
    },
    biases: [...attention, ...mlp],
    ranks: '1/1,0/2,1/0',
  },
  {
    name: 'Mistral with heads wider than hidden_size / heads',
    config: {
      ...rotary,
      architectures: ['MistralForCausalLM'],
      model_type: 'mistral',
      num_key_value_heads: 3,
      head_dim: 12,
      sliding_window: 13,
      rope_theta: 1_000_000,
    },
    biases: [],
    ranks: '1/1,2/0,0/3',
  },
  {
    name: 'Qwen 2.5: biases on q, k and v, a window on the upper layers',
    config: {
      ...rotary,
      architectures: ['Qwen2ForCausalLM'],
      model_type: 'qwen2',
      num_key_value_heads: 2,
      rope_theta: 1_000_000,
      use_sliding_window: true,
      sliding_window: 11,
      max_window_layers: 2,
      tie_word_embeddings: true,
    },
    biases: attention.slice(0, 3),
    ranks: '2/1,0/1,0/1',
  },
  {
    name: 'Qwen 3: norms on the heads of q and k',
    config: {
      ...rotary,
      architectures: ['Qwen3ForCausalLM'],
      model_type: 'qwen3',
      num_key_value_heads: 2,
      head_dim: 16,
      attention_bias: false,
      rope_theta: 1_000_000,
      rope_scaling: null,
      use_sliding_window: false,
      sliding_window: null,
      max_window_layers: 3,
      tie_word_embeddings: true,
    },
    biases: [],
    ranks: '1/3,0/0,1/1',
  },
  {
    name: 'OPT-350m: norms after the blocks, projected embeddings',
    config: { ...opt, do_layer_norm_before: false, word_embed_proj_dim: 20 },
    biases: optBiases,
    ranks: '1/1,0/2,3/0',
  },
  {
    name: 'OPT with an untied head',
    config: {
      ...opt,
      do_layer_norm_before: true,
      word_embed_proj_dim: 48,
      tie_word_embeddings: false,
    },
    biases: optBiases,
    ranks: '2/0,2/5',
  },
];

/** Writes the model; the same weights for the same seed. */
export function writeFamily(directory: string, family: Family, seed: number): Tensors {
  const tensors = new WeightMaker(family, seed).tensors();
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'config.json'), JSON.stringify(family.config, null, 2));
  writeSafetensors(join(directory, 'model.safetensors'), tensors);
  return tensors;
}

class WeightMaker {
  readonly #tensors: Tensors = new Map();
  readonly #family: Family;
  #state: number;

  constructor(family: Family, seed: number) {
    this.#family = family;
    this.#state = seed;
  }

  tensors(): Tensors {
    const isOpt = this.#family.config['model_type'] === 'opt';
    const hidden = this.#size('hidden_size');
    const width = this.#size('word_embed_proj_dim', hidden);
    const root = isOpt ? 'model.decoder.' : 'model.';
    this.#add(`${root}embed_tokens.weight`, [this.#size('vocab_size'), width], 1);
    if (isOpt) {
      const positions = this.#size('max_position_embeddings') + 2;
      this.#add(`${root}embed_positions.weight`, [positions, hidden], 0.5);
    }
    if (width !== hidden) {
      this.#linear(`${root}project_in`, hidden, width);
      this.#linear(`${root}project_out`, width, hidden);
    }
    for (let layer = 0; layer < this.#size('num_hidden_layers'); layer += 1) {
      this.#layer(`${root}layers.${layer}.`, isOpt, hidden);
    }
    if (this.#family.config['do_layer_norm_before'] !== false) {
      this.#norm(root + (isOpt ? 'final_layer_norm' : 'norm'), hidden);
    }
    if (!(this.#family.config['tie_word_embeddings'] ?? isOpt)) {
      this.#linear('lm_head', this.#size('vocab_size'), hidden);
    }
    return this.#tensors;
  }

  #layer(prefix: string, isOpt: boolean, hidden: number): void {
    const heads = this.#size('num_attention_heads');
    const headDim = this.#size('head_dim', hidden / heads);
    const queries = heads * headDim;
    const keys = this.#size('num_key_value_heads', heads) * headDim;
    const ffn = this.#size('intermediate_size', this.#size('ffn_dim', 0));
    const linear = (name: string, rows: number, columns: number) =>
      this.#linear(prefix + name, rows, columns, this.#family.biases.includes(name));
    linear('self_attn.q_proj', queries, hidden);
    linear('self_attn.k_proj', keys, hidden);
    linear('self_attn.v_proj', keys, hidden);
    linear(`self_attn.${isOpt ? 'out' : 'o'}_proj`, hidden, queries);
    if (isOpt) {
      linear('fc1', ffn, hidden);
      linear('fc2', hidden, ffn);
    } else {
      for (const name of ['gate', 'up']) linear(`mlp.${name}_proj`, ffn, hidden);
      linear('mlp.down_proj', hidden, ffn);
    }
    this.#norm(prefix + (isOpt ? 'self_attn_layer_norm' : 'input_layernorm'), hidden);
    this.#norm(prefix + (isOpt ? 'final_layer_norm' : 'post_attention_layernorm'), hidden);
    if (this.#family.config['model_type'] === 'qwen3') {
      for (const name of ['q', 'k']) {
        this.#add(`${prefix}self_attn.${name}_norm.weight`, [headDim], 0.3, 1);
      }
    }
  }

  #linear(name: string, rows: number, columns: number, bias = false): void {
    this.#add(`${name}.weight`, [rows, columns], 2 / Math.sqrt(columns));
    if (bias) this.#add(`${name}.bias`, [rows], 0.4);
  }

  #norm(name: string, size: number): void {
    this.#add(`${name}.weight`, [size], 0.2, 1);
    if (this.#family.config['model_type'] === 'opt') this.#add(`${name}.bias`, [size], 0.2);
  }

  /** Uniform in mean ± spread. */
  #add(name: string, shape: number[], spread: number, mean = 0): void {
    const data = Buffer.alloc(4 * shape.reduce((product, size) => product * size, 1));
    for (let offset = 0; offset < data.length; offset += 4) {
      this.#state = (Math.imul(this.#state, 1_664_525) + 1_013_904_223) >>> 0;
      data.writeFloatLE(mean + spread * (this.#state / 2 ** 31 - 1), offset);
    }
    this.#tensors.set(name, { dtype: 'F32', shape, data } satisfies StoredTensor);
  }

  #size(field: string, otherwise?: number): number {
    const value = this.#family.config[field] ?? otherwise;
    if (typeof value !== 'number') throw new Error(`${this.#family.name} needs ${field}`);
    return value;
  }
}
