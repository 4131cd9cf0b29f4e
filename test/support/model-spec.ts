import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';

/** A small Llama with `changes`. */
export function modelSpec(changes: Partial<ModelSpec> = {}): ModelSpec {
  const config = {
    architectures: ['LlamaForCausalLM'],
    vocab_size: 50,
    hidden_size: 64,
    intermediate_size: 112,
    num_hidden_layers: 2,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    max_position_embeddings: 128,
  };
  return { ...modelSpecFromConfig(config), ...changes };
}
