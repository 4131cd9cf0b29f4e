/** Fields of config.json that published models carry are taken; unknown ones are refused by name, `false` among them. */
import { describe, expect, test } from 'vitest';
import { modelSpecFromConfig } from '../../../proto/domain/model-config.ts';

/** What transformers writes into the config.json of any model when it writes everything. */
const verbose = {
  return_dict: true,
  output_hidden_states: false,
  output_attentions: false,
  torchscript: false,
  use_bfloat16: false,
  tf_legacy_loss: false,
  pruned_heads: {},
  chunk_size_feed_forward: 0,
  is_encoder_decoder: false,
  is_decoder: false,
  cross_attention_hidden_size: null,
  add_cross_attention: false,
  tie_encoder_decoder: false,
  max_length: 20,
  min_length: 0,
  do_sample: false,
  early_stopping: false,
  num_beams: 1,
  num_beam_groups: 1,
  diversity_penalty: 0,
  temperature: 1,
  top_k: 50,
  top_p: 1,
  typical_p: 1,
  repetition_penalty: 1,
  length_penalty: 1,
  no_repeat_ngram_size: 0,
  encoder_no_repeat_ngram_size: 0,
  bad_words_ids: null,
  num_return_sequences: 1,
  output_scores: false,
  return_dict_in_generate: false,
  forced_bos_token_id: null,
  forced_eos_token_id: null,
  remove_invalid_values: false,
  exponential_decay_length_penalty: null,
  suppress_tokens: null,
  begin_suppress_tokens: null,
  finetuning_task: null,
  id2label: { 0: 'LABEL_0', 1: 'LABEL_1' },
  label2id: { LABEL_0: 0, LABEL_1: 1 },
  tokenizer_class: null,
  prefix: null,
  pad_token_id: null,
  sep_token_id: null,
  decoder_start_token_id: null,
  task_specific_params: null,
  problem_type: null,
  _name_or_path: '',
  _attn_implementation_autoset: false,
  transformers_version: '4.51.0',
  torch_dtype: 'bfloat16',
  use_cache: true,
};

const rotary = {
  hidden_size: 64,
  intermediate_size: 112,
  num_hidden_layers: 2,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  vocab_size: 50,
  max_position_embeddings: 4096,
  hidden_act: 'silu',
  initializer_range: 0.02,
  rms_norm_eps: 1e-5,
  bos_token_id: 1,
  eos_token_id: [2, 3],
  attention_dropout: 0,
};

const llama = { ...rotary, architectures: ['LlamaForCausalLM'], model_type: 'llama' };

/** The fields of the published configurations, with sizes of a small model. */
const published: Record<string, Record<string, unknown>> = {
  'Llama 2': {
    ...llama,
    pretraining_tp: 1,
    rope_scaling: null,
    tie_word_embeddings: false,
    max_sequence_length: 2048,
  },
  'Llama 3.2': {
    ...llama,
    attention_bias: false,
    mlp_bias: false,
    head_dim: 8,
    pretraining_tp: 1,
    rope_scaling: {
      factor: 32,
      high_freq_factor: 4,
      low_freq_factor: 1,
      original_max_position_embeddings: 2048,
      rope_type: 'llama3',
    },
    rope_theta: 500_000,
    tie_word_embeddings: true,
  },
  'SmolLM 2': {
    ...llama,
    is_llama_config: true,
    rope_interleaved: false,
    rope_scaling: null,
    'transformers.js_config': { kv_cache_dtype: { q4f16: 'float16' } },
  },
  'a Llama converted for MLX': { ...llama, rope_traditional: false, mlp_bias: false },
  Mistral: {
    ...rotary,
    architectures: ['MistralForCausalLM'],
    model_type: 'mistral',
    sliding_window: null,
    head_dim: 8,
    rope_theta: 1e6,
    attention_bias: false,
    output_router_logits: false,
    tie_word_embeddings: false,
  },
  'Qwen 2.5': {
    ...rotary,
    architectures: ['Qwen2ForCausalLM'],
    model_type: 'qwen2',
    max_window_layers: 28,
    sliding_window: 131_072,
    use_sliding_window: false,
    use_mrope: false,
    rope_theta: 1e6,
    tie_word_embeddings: false,
  },
  'Qwen 3': {
    ...rotary,
    architectures: ['Qwen3ForCausalLM'],
    model_type: 'qwen3',
    attention_bias: false,
    head_dim: 16,
    layer_types: ['full_attention', 'full_attention'],
    max_window_layers: 36,
    rope_scaling: null,
    rope_theta: 1e6,
    sliding_window: null,
    tie_word_embeddings: true,
    use_sliding_window: false,
  },
  OPT: {
    architectures: ['OPTForCausalLM'],
    model_type: 'opt',
    vocab_size: 50,
    hidden_size: 64,
    ffn_dim: 112,
    num_hidden_layers: 2,
    num_attention_heads: 8,
    max_position_embeddings: 128,
    word_embed_proj_dim: 64,
    activation_function: 'relu',
    activation_dropout: 0,
    attention_dropout: 0,
    dropout: 0.1,
    layerdrop: 0,
    init_std: 0.02,
    do_layer_norm_before: true,
    _remove_final_layer_norm: false,
    enable_bias: true,
    layer_norm_elementwise_affine: true,
    scale_embeddings: false,
    output_projection: true,
    prefix: '</s>',
    bos_token_id: 2,
    eos_token_id: 2,
    pad_token_id: 1,
  },
};

describe.each(Object.keys(published))('%s', (name) => {
  const config = published[name] ?? {};

  test('loads, with every field that transformers may add', () => {
    expect(modelSpecFromConfig(config).layers).toBe(2);
    expect(modelSpecFromConfig({ ...verbose, ...config }).layers).toBe(2);
  });

  test.each(['use_rope', 'is_causal', 'normalize_values'])('with %s: false is refused', (field) => {
    expect(() => modelSpecFromConfig({ ...config, [field]: false })).toThrow(
      `config.json: ${field} is false; Hels does not know this field`,
    );
    expect(modelSpecFromConfig({ ...config, [field]: null }).layers).toBe(2);
  });

  test('with a feature that Hels does not compute switched on is refused', () => {
    expect(() => modelSpecFromConfig({ ...config, use_mrope: true })).toThrow('use_mrope is true');
  });
});

test('in rope_scaling, too, false of an unknown field is refused', () => {
  const config = { ...llama, rope_scaling: { type: 'linear', factor: 2, truncate: false } };
  expect(() => modelSpecFromConfig(config)).toThrow('rope_scaling.truncate is false');
});

test('a head group of bf16 inputs that is no multiple of 4 is refused by name, unless it is the only one', () => {
  const config = { ...llama, num_attention_heads: 5, num_key_value_heads: 5, head_dim: 6 };
  const refused = expect.objectContaining({ code: 'model-invalid', field: 'head_dim' });
  const refusedWith = (options: object) =>
    expect(() => modelSpecFromConfig(config, options)).toThrow(refused);
  refusedWith({ tensorType: 'bf16' });
  refusedWith({ tensorType: 'f32', quantization: 'int8' });
  expect(modelSpecFromConfig(config, { tensorType: 'f32' }).headDim).toBe(6);
  const one = { ...config, num_attention_heads: 1, num_key_value_heads: 1 };
  expect(modelSpecFromConfig(one, { tensorType: 'bf16' }).headDim).toBe(6);
});

test.each([
  [{ ...llama, intermediate_size: 7 }, 'intermediate_size'],
  [{ ...published['OPT'], ffn_dim: 7 }, 'ffn_dim'],
])('fewer FFN columns than a granule has are refused by name', (config, field) => {
  expect(() => modelSpecFromConfig(config)).toThrow(
    expect.objectContaining({ code: 'model-invalid', field }),
  );
  expect(modelSpecFromConfig({ ...config, [field]: 8 }).ffnGranule).toBe(8);
});
