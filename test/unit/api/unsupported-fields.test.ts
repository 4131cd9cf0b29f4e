import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  parseChatRequest,
  parseCompletionRequest,
} from '../../../controller/api/http/request-schema.ts';

const messages = [{ role: 'user', content: 'Hi' }];
const chat = (fields: object) => () => parseChatRequest({ model: 'm', messages, ...fields });
const completion = (fields: object) => () =>
  parseCompletionRequest({ model: 'm', prompt: 'Hi', ...fields });

/** Name, a value that asks for something, values that ask for nothing besides null. */
type Field = [name: string, asks: unknown, ...off: unknown[]];

const inBoth: Field[] = [
  ['frequency_penalty', 0.5, 0],
  ['presence_penalty', 0.5, 0],
  ['repetition_penalty', 1.1, 1],
  ['logit_bias', { '5': 1 }, {}],
  ['min_p', 0.1, 0],
  ['use_beam_search', true, false],
  ['length_penalty', 0.8, 1],
  ['guided_json', {}],
  ['guided_regex', 'a+'],
  ['guided_choice', ['a']],
  ['guided_grammar', 'root'],
  ['structured_outputs', { regex: 'a+' }],
  ['include_stop_str_in_output', true, false],
  ['skip_special_tokens', false, true],
  ['spaces_between_special_tokens', false, true],
  ['allowed_token_ids', [5], []],
  ['bad_words', ['word'], []],
  ['truncate_prompt_tokens', 10],
  ['prompt_logprobs', 0],
  ['repeat_penalty', 1.1, 1],
  ['typical_p', 0.9, 1],
  ['mirostat', 2, 0],
  ['grammar', 'root ::= "a"', ''],
  ['json_schema', { type: 'object' }],
  ['logits_processors', ['x'], []],
  ['repetition_detection', { max_pattern_size: 3 }],
  ['vllm_xargs', { a: 1 }, {}],
  ['thinking_token_budget', 100, -1],
  ['tfs_z', 0.9, 1],
  ['top_n_sigma', 1.5, 0, -1],
  ['min_keep', 2, 0, 1],
  ['dynatemp_range', 0.5, 0],
  ['xtc_probability', 0.5, 0],
  ['dry_multiplier', 0.8, 0],
  ['adaptive_target', 0.5, -1],
  ['samplers', ['top_k']],
  ['lora', [{ id: 0, scale: 1 }], []],
  ['reasoning_budget_tokens', 0, -1],
  ['thinking_budget_tokens', 0, -1],
  ['logprob_token_ids', [5], []],
  ['return_token_ids', true, false],
  ['return_tokens_as_token_ids', true, false],
  ['n_indent', 2, 0],
  ['t_max_predict_ms', 100, 0, -1],
  ['return_tokens', true, false],
  ['response_fields', ['content'], []],
  ['post_sampling_probs', true, false],
  ['preserved_tokens', ['<x>'], []],
  ['n_predict', 5, -1],
  ['n_cmpl', 2, 1],
  ['n_probs', 3, 0],
  ['echo', true, false],
  ['resume', { token_ids: [5], seed: 1 }],
  ['response_format', { type: 'json_schema' }, { type: 'text' }],
  ['best_of', 4, 1],
];
const inChats: Field[] = [
  ['tools', [{ type: 'function' }], []],
  ['tool_choice', 'required', 'none', 'auto'],
  ['functions', [{ name: 'f' }], []],
  ['function_call', { name: 'f' }, 'none', 'auto'],
  ['audio', { voice: 'v' }],
  ['verbosity', 'low', 'medium'],
  ['add_special_tokens', true, false],
  ['include_reasoning', false, true],
  ['reasoning_format', 'deepseek', 'none'],
  ['prediction', { type: 'content' }],
  ['web_search_options', {}],
  ['modalities', ['audio'], ['text']],
  ['chat_template_kwargs', { enable_thinking: false }, {}],
  ['chat_template', '{{ messages }}'],
  ['documents', [{ text: 'x' }], []],
  ['add_generation_prompt', false, true],
  ['continue_final_message', true, false],
];
const inCompletions: Field[] = [
  ['suffix', 'end', ''],
  ['add_special_tokens', false, true],
  ['prompt_embeds', 'AAAA'],
];
const inMessages: Field[] = [
  ['name', 'Ann', ''],
  ['refusal', 'no', ''],
  ['reasoning', 'hm', ''],
  ['reasoning_content', 'hm', ''],
  ['prefix', true, false],
  ['tool_calls', [{ id: 'a' }], []],
  ['function_call', { name: 'f' }],
  ['audio', { id: 'a' }],
];

function check(parse: (fields: object) => () => unknown, [name, asks, ...off]: Field) {
  const error = { status: 400, code: 'unsupported_parameter', param: name };
  expect(parse({ [name]: asks })).toThrow(expect.objectContaining(error));
  for (const value of [null, ...off]) expect(parse({ [name]: value })).not.toThrow();
}

describe('a field that would change the answer', () => {
  it.each(inBoth)('is refused by name unless it is off: %s', (...field) => {
    check(chat, field);
    check(completion, field);
  });
  it.each(inChats)('is refused in a chat: %s', (...field) => check(chat, field));
  it.each(inCompletions)('is refused in a completion: %s', (...field) => check(completion, field));

  it.each(inMessages)('is refused in a message: %s', (...[name, asks, ...off]) => {
    const param = `messages[0].${name}`;
    const withField = (value: unknown) =>
      chat({ messages: [{ role: 'assistant', content: 'x', [name]: value }] });
    expect(withField(asks)).toThrow(expect.objectContaining({ status: 400, param }));
    for (const value of [null, ...off]) expect(withField(value)).not.toThrow();
  });

  it('is not what belongs to one that is off', () => {
    const companions = { xtc_threshold: 0.1, dry_base: 1.75, mirostat_tau: 5, repeat_last_n: 64 };
    expect(chat({ ...companions, mirostat: 0, dry_multiplier: 0 })).not.toThrow();
  });

  it('is in the reference', () => {
    const page = readFileSync('docs/reference/http-api.md', 'utf8');
    const all = [...inBoth, ...inChats, ...inCompletions, ...inMessages];
    for (const [name] of all) expect(page).toContain(`\`${name}\``);
  });
});
