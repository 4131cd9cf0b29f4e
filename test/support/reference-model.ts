/**
 * The forward passes of Llama, Mistral, Qwen and OPT in plain f64 loops over Hugging Face's config.json and tensor names, without a
 * cache. Written from the papers and the models' descriptions; shares no code with the engine or its reader of config.json.
 */
import type { StoredTensor, Tensors } from './safetensors.ts';

type Row = Float64Array;
export type ConfigFields = Readonly<Record<string, unknown>>;

export class ReferenceModel {
  readonly #config: ConfigFields;
  readonly #tensors: ReadonlyMap<string, { shape: number[]; values: Row }>;
  readonly #opt: boolean;
  readonly #root: string;

  /** `tensors` are f32. */
  constructor(config: ConfigFields, tensors: Tensors) {
    this.#config = config;
    this.#tensors = new Map([...tensors].map(([name, tensor]) => [name, valuesOf(tensor)]));
    this.#opt = config['model_type'] === 'opt';
    this.#root = this.#opt ? 'model.decoder.' : 'model.';
  }

  /** (tokens, vocabulary) */
  logits(tokens: readonly number[]): Row[] {
    let states = this.#embed(tokens);
    for (let layer = 0; layer < this.#number('num_hidden_layers'); layer += 1) {
      const prefix = `${this.#root}layers.${layer}.`;
      const [first, second] = this.#opt
        ? ['self_attn_layer_norm', 'final_layer_norm']
        : ['input_layernorm', 'post_attention_layernorm'];
      const attention = (input: Row[]) => this.#attend(prefix, layer, input);
      states = this.#residual(states, prefix + first, attention);
      states = this.#residual(states, prefix + second, (input) => this.#mlp(prefix, input));
    }
    const finalNorm = this.#root + (this.#opt ? 'final_layer_norm' : 'norm');
    if (!this.#postNorm()) states = states.map((row) => this.#norm(row, finalNorm));
    if (this.#projected()) states = this.#linear(states, `${this.#root}project_out`);
    const tied = this.#config['tie_word_embeddings'] ?? this.#opt;
    return this.#linear(states, tied ? `${this.#root}embed_tokens` : 'lm_head');
  }

  #embed(tokens: readonly number[]): Row[] {
    const states = tokens.map((token) => this.#tableRow(`${this.#root}embed_tokens.weight`, token));
    if (!this.#opt) return states;
    const inputs = this.#projected() ? this.#linear(states, `${this.#root}project_in`) : states;
    return inputs.map((row, position) =>
      add(row, this.#tableRow(`${this.#root}embed_positions.weight`, position + 2)),
    );
  }

  /** x + f(norm(x)); OPT-350m: norm(x + f(x)). */
  #residual(states: Row[], norm: string, block: (input: Row[]) => Row[]): Row[] {
    const input = this.#postNorm() ? states : states.map((row) => this.#norm(row, norm));
    const sums = block(input).map((row, position) => add(row, states[position]!));
    return this.#postNorm() ? sums.map((row) => this.#norm(row, norm)) : sums;
  }

  #mlp(prefix: string, input: Row[]): Row[] {
    if (this.#opt) {
      const hidden = this.#linear(input, `${prefix}fc1`);
      return this.#linear(
        hidden.map((row) => row.map((value) => Math.max(0, value))),
        `${prefix}fc2`,
      );
    }
    const gates = this.#linear(input, `${prefix}mlp.gate_proj`);
    const ups = this.#linear(input, `${prefix}mlp.up_proj`);
    const hidden = gates.map((row, at) =>
      row.map((gate, column) => (gate / (1 + Math.exp(-gate))) * ups[at]![column]!),
    );
    return this.#linear(hidden, `${prefix}mlp.down_proj`);
  }

  #attend(prefix: string, layer: number, input: Row[]): Row[] {
    const heads = this.#number('num_attention_heads');
    const perGroup = heads / ((this.#config['num_key_value_heads'] as number | null) ?? heads);
    const size = (this.#config['head_dim'] as number | null) ?? this.#number('hidden_size') / heads;
    const head = (row: Row, index: number) => row.slice(index * size, (index + 1) * size);
    const project = (name: string) => this.#linear(input, `${prefix}self_attn.${name}_proj`);
    const turned = (name: 'q' | 'k', count: number) =>
      project(name).map((row, position) =>
        Array.from({ length: count }, (_, index) =>
          this.#turn(head(row, index), position, `${prefix}self_attn.${name}_norm`),
        ),
      );
    const queries = turned('q', heads);
    const keys = turned('k', heads / perGroup);
    const values = project('v');
    const window = this.#window(layer);
    const mixed = input.map((_, position) => {
      const first = Math.max(0, position + 1 - window);
      const result = new Float64Array(heads * size);
      for (let index = 0; index < heads; index += 1) {
        const group = Math.floor(index / perGroup);
        const seen = Array.from({ length: position + 1 - first }, (_, at) => first + at);
        const scores = seen.map(
          (at) => dot(queries[position]![index]!, keys[at]![group]!) / Math.sqrt(size),
        );
        for (const [at, weight] of softmax(scores).entries()) {
          const value = head(values[first + at]!, group);
          for (let d = 0; d < size; d += 1) result[index * size + d]! += weight * value[d]!;
        }
      }
      return result;
    });
    return this.#linear(mixed, `${prefix}self_attn.${this.#opt ? 'out' : 'o'}_proj`);
  }

  /** One head: normed where the file has a norm for it (Qwen 3), rotated unless positions are learned. */
  #turn(head: Row, position: number, norm: string): Row {
    const values = this.#tensors.has(`${norm}.weight`) ? this.#norm(head, norm) : head;
    if (this.#opt) return values;
    const half = values.length / 2;
    return values.map((value, at) => {
      const angle = position * this.#frequency(at % half, values.length);
      const other = at < half ? -values[at + half]! : values[at - half]!;
      return value * Math.cos(angle) + other * Math.sin(angle);
    });
  }

  #frequency(pair: number, headSize: number): number {
    const frequency = this.#number('rope_theta') ** ((-2 * pair) / headSize);
    const scaling = this.#config['rope_scaling'] as Record<string, number | string> | null;
    if (scaling === null || scaling === undefined) return frequency;
    const factor = Number(scaling['factor']);
    if ((scaling['rope_type'] ?? scaling['type']) === 'linear') return frequency / factor;
    const low = Number(scaling['low_freq_factor']);
    const high = Number(scaling['high_freq_factor']);
    const turns = (Number(scaling['original_max_position_embeddings']) * frequency) / (2 * Math.PI);
    const blend = Math.min(1, Math.max(0, (turns - low) / (high - low)));
    return frequency * (blend + (1 - blend) / factor);
  }

  #window(layer: number): number {
    const window = (this.#config['sliding_window'] as number | null) ?? Number.POSITIVE_INFINITY;
    if (this.#config['model_type'] === 'mistral') return window;
    const windowed =
      this.#config['use_sliding_window'] === true && layer >= this.#number('max_window_layers');
    return windowed ? window : Number.POSITIVE_INFINITY;
  }

  #norm(row: Row, name: string): Row {
    const weight = this.#values(`${name}.weight`);
    const mean = this.#opt ? sum(row) / row.length : 0;
    const variance = sum(row.map((value) => (value - mean) ** 2)) / row.length;
    const scale = 1 / Math.sqrt(variance + (this.#opt ? 1e-5 : this.#number('rms_norm_eps')));
    const bias = this.#opt ? this.#values(`${name}.bias`) : null;
    return row.map((value, at) => (value - mean) * scale * weight[at]! + (bias?.[at] ?? 0));
  }

  /** With the bias, where the file has one. */
  #linear(states: Row[], name: string): Row[] {
    const { shape, values } = this.#tensor(`${name}.weight`);
    const bias = this.#tensors.get(`${name}.bias`)?.values;
    const [rows = 0, columns = 0] = shape;
    return states.map((state) =>
      Float64Array.from({ length: rows }, (_, row) => {
        const weights = values.subarray(row * columns, (row + 1) * columns);
        return dot(weights, state) + (bias?.[row] ?? 0);
      }),
    );
  }

  #projected(): boolean {
    return this.#opt && this.#config['word_embed_proj_dim'] !== this.#config['hidden_size'];
  }

  #postNorm(): boolean {
    return this.#opt && this.#config['do_layer_norm_before'] === false;
  }

  #tableRow(name: string, row: number): Row {
    const { shape, values } = this.#tensor(name);
    return values.slice(row * shape[1]!, (row + 1) * shape[1]!);
  }

  #values(name: string): Row {
    return this.#tensor(name).values;
  }

  #tensor(name: string): { shape: number[]; values: Row } {
    const tensor = this.#tensors.get(name);
    if (tensor === undefined) throw new Error(`the test's model has no tensor ${name}`);
    return tensor;
  }

  #number(field: string): number {
    const value = this.#config[field];
    if (typeof value !== 'number') throw new Error(`the test's config has no number ${field}`);
    return value;
  }
}

function valuesOf({ dtype, shape, data }: StoredTensor): { shape: number[]; values: Row } {
  if (dtype !== 'F32') throw new Error(`the reference reads F32, not ${dtype}`);
  const count = data.length / 4;
  return {
    shape,
    values: Float64Array.from({ length: count }, (_, at) => data.readFloatLE(at * 4)),
  };
}

function sum(values: Iterable<number>): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

function add(left: Row, right: Row): Row {
  return left.map((value, at) => value + right[at]!);
}

function dot(left: Row, right: Row): number {
  let total = 0;
  for (let at = 0; at < left.length; at += 1) total += left[at]! * right[at]!;
  return total;
}

function softmax(scores: readonly number[]): number[] {
  const largest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - largest));
  const total = sum(powers);
  return powers.map((power) => power / total);
}
