/** config.json with fields that Hels cannot compute: refused by name, exit code 4, never ignored. */
import { afterAll, test, vi } from 'vitest';
import { type Broken, config, expectRefused, write } from '../support/broken-models.ts';
import { ScratchModels } from '../support/golden-models.ts';

// Each test runs helsctl, two Node programs: seconds on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const scratch = new ScratchModels();
afterAll(() => scratch.remove());

const fields: Broken[] = [
  { name: 'not JSON', break: write('config.json', '{'), message: ['config.json is not JSON'] },
  { name: 'not an object', break: write('config.json', '[]'), message: ['config.json'] },
  {
    name: 'unknown architecture',
    break: config({ architectures: ['GPT2LMHeadModel'] }),
    message: ['config.json: architectures is ["GPT2LMHeadModel"]', 'LlamaForCausalLM'],
  },
  {
    name: 'no architecture',
    break: config({ architectures: null }),
    message: ['config.json: architectures is null'],
  },
  {
    name: 'an architecture of another model type',
    break: config({ model_type: 'granite' }),
    message: ['config.json: model_type is "granite"'],
  },
  {
    name: 'rope_scaling yarn',
    break: config({ rope_scaling: { type: 'yarn', factor: 4 } }),
    message: ['config.json: rope_scaling.type is "yarn"'],
  },
  {
    name: 'rope_scaling dynamic',
    break: config({ rope_scaling: { rope_type: 'dynamic', factor: 4 } }),
    message: ['config.json: rope_scaling.rope_type is "dynamic"'],
  },
  {
    name: 'rope_scaling with a field of yarn',
    break: config({ rope_scaling: { type: 'linear', factor: 4, attention_factor: 0.9 } }),
    message: ['config.json: rope_scaling.attention_factor is 0.9'],
  },
  {
    name: 'rope_scaling that is text',
    break: config({ rope_scaling: 'linear' }),
    message: ['config.json: rope_scaling is "linear"'],
  },
  {
    name: 'attention_bias that is text',
    break: config({ attention_bias: 'yes' }),
    message: ['config.json: attention_bias is "yes"'],
  },
  {
    name: 'attention_bias without the tensors',
    break: config({ attention_bias: true }),
    message: ["tensor 'model.layers.0.self_attn.q_proj.bias' is missing"],
  },
  {
    name: 'attention_bias where the family has none',
    model: 'mistral-swa',
    break: config({ attention_bias: true }),
    message: ['config.json: attention_bias is true'],
  },
  {
    name: 'a scaling nobody knows',
    break: config({ residual_multiplier: 0.22 }),
    message: ['config.json: residual_multiplier is 0.22'],
  },
  {
    name: 'another activation',
    break: config({ hidden_act: 'gelu' }),
    message: ['config.json: hidden_act is "gelu"'],
  },
  {
    name: 'weights that something else quantised',
    break: config({ quantization_config: { quant_method: 'gptq', bits: 4 } }),
    message: ['config.json: quantization_config.quant_method is "gptq"', '"hels"', 'f32, bf16'],
  },
  {
    name: 'KV heads that do not divide the heads',
    break: config({ num_key_value_heads: 3 }),
    message: ['config.json: num_key_value_heads is 3'],
  },
  {
    name: 'an odd head size',
    break: config({ head_dim: 7 }),
    message: ['config.json: head_dim is 7'],
  },
  {
    name: 'more layers than the weights have',
    break: config({ num_hidden_layers: 5 }),
    message: ["tensor 'model.layers.4.input_layernorm.weight' is missing"],
  },
  {
    name: 'a number of layers that cannot be',
    break: config({ num_hidden_layers: 1e9 }),
    message: ['config.json: num_hidden_layers is 1000000000'],
  },
  {
    name: 'a weight type that cannot be read',
    break: config({ torch_dtype: 'int8' }),
    message: ['config.json: torch_dtype is "int8"'],
  },
  {
    name: 'tied embeddings said wrong',
    break: config({ tie_word_embeddings: 1 }),
    message: ['config.json: tie_word_embeddings is 1'],
  },
  {
    name: 'OPT with a projection that the weights lack',
    model: 'opt-pre',
    break: config({ word_embed_proj_dim: 32 }),
    message: ["tensor 'model.decoder.embed_tokens.weight'", 'demands [199, 32]'],
  },
  {
    name: 'OPT with another activation',
    model: 'opt-pre',
    break: config({ activation_function: 'gelu' }),
    message: ['config.json: activation_function is "gelu"'],
  },
];

test.each(fields)('$name', (broken) => expectRefused(scratch, broken));
