/**
 * Fields of config.json that do not change the arithmetic of a forward pass, for any value: training settings, defaults of text
 * generation (a request says those itself), token ids (the tokenizer's matter), bookkeeping and labels.
 */
export const harmlessFields: ReadonlySet<string> = new Set([
  // bookkeeping
  '_attn_implementation',
  '_attn_implementation_autoset',
  '_commit_hash',
  '_name_or_path',
  'is_llama_config',
  'name_or_path',
  'transformers.js_config',
  'transformers_version',
  'unsloth_fixed',
  'unsloth_version',
  // how a Python implementation runs, not what it computes
  'attn_implementation',
  'chunk_size_feed_forward',
  'gradient_checkpointing',
  'output_attentions',
  'output_hidden_states',
  'output_scores',
  'pretraining_tp',
  'return_dict',
  'return_dict_in_generate',
  'tf_legacy_loss',
  'torchscript',
  'use_bfloat16',
  'use_cache',
  // training
  'activation_dropout',
  'attention_dropout',
  'dropout',
  'init_std',
  'initializer_range',
  'layerdrop',
  'max_sequence_length',
  // text generation
  'bad_words_ids',
  'begin_suppress_tokens',
  'diversity_penalty',
  'do_sample',
  'early_stopping',
  'encoder_no_repeat_ngram_size',
  'exponential_decay_length_penalty',
  'length_penalty',
  'max_length',
  'min_length',
  'no_repeat_ngram_size',
  'num_beam_groups',
  'num_beams',
  'num_return_sequences',
  'remove_invalid_values',
  'repetition_penalty',
  'suppress_tokens',
  'temperature',
  'top_k',
  'top_p',
  'typical_p',
  // tokens and text
  'bos_token_id',
  'decoder_start_token_id',
  'eos_token_id',
  'forced_bos_token_id',
  'forced_eos_token_id',
  'pad_token_id',
  'prefix',
  'sep_token_id',
  'tokenizer_class',
  // labels and tasks of other heads
  'finetuning_task',
  'id2label',
  'label2id',
  'problem_type',
  'task_specific_params',
  // only read by encoder-decoder models, which are refused
  'is_decoder',
  'tie_encoder_decoder',
]);

/** Written by the OPT conversion; the projection follows from word_embed_proj_dim. */
export const harmlessOptFields: ReadonlySet<string> = new Set([
  ...harmlessFields,
  'output_projection',
]);

/**
 * Features that Hels does not compute, of families that have no such field or only read it in some, and which are off where
 * config.json says false. Any other value is refused.
 */
export const features: ReadonlySet<string> = new Set([
  // biases: where false is written, no family has a tensor for them
  'attention_bias',
  'attention_out_bias',
  'bias',
  'lm_head_bias',
  'mlp_bias',
  // positions
  'rope_interleaved',
  'rope_traditional',
  'use_dynamic_ntk',
  'use_logn_attn',
  'use_mrope',
  'use_scaled_rope',
  'use_sliding_window',
  // ways to run the attention
  '_flash_attn_2_enabled',
  'use_flash_attention',
  'use_flash_attention_2',
  'use_flash_attn',
  // other parts
  'output_router_logits',
  'scale_embeddings',
]);
