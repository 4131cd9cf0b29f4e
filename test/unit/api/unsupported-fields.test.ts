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
  ['min_tokens', 5, 0],
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
  ['stop_token_ids', [5], []],
  ['response_format', { type: 'json_schema' }, { type: 'text' }],
  ['best_of', 4, 1],
];
const inChats: Field[] = [
  ['tools', [{ type: 'function' }], []],
  ['tool_choice', 'required', 'none', 'auto'],
  ['functions', [{ name: 'f' }], []],
  ['function_call', { name: 'f' }, 'none', 'auto'],
  ['audio', { voice: 'v' }],
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
  ['echo', true, false],
  ['suffix', 'end', ''],
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

  it.each(['tool_calls', 'function_call', 'audio'])('is refused in a message: %s', (name) => {
    const withField = [{ role: 'assistant', content: 'x', [name]: { id: 'a' } }];
    expect(chat({ messages: withField })).toThrow(`messages[0].${name}`);
  });

  it('is in the reference', () => {
    const page = readFileSync('docs/reference/http-api.md', 'utf8');
    const names = [...inBoth, ...inChats, ...inCompletions].map(([name]) => name);
    for (const name of [...names, 'tool_calls']) expect(page).toContain(`\`${name}\``);
  });
});
