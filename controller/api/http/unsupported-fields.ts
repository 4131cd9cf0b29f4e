/**
 * Fields of the OpenAI API, and of servers like it, that would change the answer if they were honoured. Each is refused by name
 * unless it has the value that means "off": silently ignoring one would give another answer than was asked for.
 */
import { shown } from '../generation-request.ts';
import { ApiError } from './api-error.ts';

type Body = Readonly<Record<string, unknown>>;

interface UnsupportedField {
  name: string;
  /** Values that ask for nothing. */
  isOff(value: unknown): boolean;
  fix: string;
}

const is =
  (...values: unknown[]) =>
  (value: unknown) =>
    values.includes(value);
const isEmpty = (value: unknown) =>
  typeof value === 'object' && value !== null && Object.keys(value).length === 0;
const isTextFormat = (value: unknown) => (value as { type?: unknown }).type === 'text';
const isTextOnly = (value: unknown) => Array.isArray(value) && value.every(is('text'));

const leaveOut = (...fields: [name: string, isOff: (value: unknown) => boolean][]) =>
  fields.map(([name, isOff]) => ({ name, isOff, fix: 'leave it out' }));

const common: readonly UnsupportedField[] = [
  ...leaveOut(
    ['frequency_penalty', is(0)],
    ['presence_penalty', is(0)],
    ['repetition_penalty', is(1)],
    ['logit_bias', isEmpty],
    ['min_p', is(0)],
    ['min_tokens', is(0)],
    ['use_beam_search', is(false)],
    ['length_penalty', is(1)],
    ['guided_json', is()],
    ['guided_regex', is()],
    ['guided_choice', is()],
    ['guided_grammar', is()],
    ['structured_outputs', is()],
    ['include_stop_str_in_output', is(false)],
    ['skip_special_tokens', is(true)],
    ['spaces_between_special_tokens', is(true)],
    ['allowed_token_ids', isEmpty],
    ['bad_words', isEmpty],
    ['truncate_prompt_tokens', is()],
    // 0 asks for the prompt's own.
    ['prompt_logprobs', is()],
    // Of llama.cpp's server.
    ['repeat_penalty', is(1)],
    ['typical_p', is(1)],
    ['mirostat', is(0)],
    ['grammar', is('')],
    ['json_schema', is()],
  ),
  { name: 'stop_token_ids', isOff: isEmpty, fix: 'use stop with the text of the tokens' },
  { name: 'response_format', isOff: isTextFormat, fix: 'only {"type": "text"} is known' },
];

const chatOnly: readonly UnsupportedField[] = [
  ...leaveOut(
    ['tools', isEmpty],
    ['tool_choice', is('none', 'auto')],
    ['functions', isEmpty],
    ['function_call', is('none', 'auto')],
    ['audio', is()],
    ['prediction', is()],
    ['web_search_options', is()],
    ['chat_template_kwargs', isEmpty],
    ['add_generation_prompt', is(true)],
    ['continue_final_message', is(false)],
    ['chat_template', is()],
    ['documents', isEmpty],
  ),
  { name: 'modalities', isOff: isTextOnly, fix: 'only ["text"] is known' },
];

const completionOnly: readonly UnsupportedField[] = [
  { name: 'echo', isOff: is(false), fix: 'put the prompt before the answer yourself' },
  { name: 'suffix', isOff: is(''), fix: 'leave it out; no model here fills a gap' },
];

/** Throws 400 unsupported_parameter naming the field, its value and the fix. */
export function refuseUnsupported(body: Body, endpoint: 'chat' | 'completion'): void {
  const fields = [...common, ...(endpoint === 'chat' ? chatOnly : completionOnly)];
  for (const { name, isOff, fix } of fields) {
    const value = body[name];
    if (value === undefined || value === null || isOff(value)) continue;
    throw unsupported(name, value, fix);
  }
  const { best_of: bestOf, n } = body;
  if (bestOf !== undefined && bestOf !== null && bestOf !== (n ?? 1)) {
    throw unsupported('best_of', bestOf, 'use n, and choose among the answers by their logprobs');
  }
}

export function unsupported(name: string, value: unknown, fix: string): ApiError {
  return new ApiError(
    400,
    'unsupported_parameter',
    `${name}: ${shown(value)} is not supported; ${fix}`,
    { param: name },
  );
}
