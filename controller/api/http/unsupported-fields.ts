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

const isAtMost0 = (value: unknown) => typeof value === 'number' && value <= 0;

const leaveOut = (...fields: [name: string, isOff: (value: unknown) => boolean][]) =>
  fields.map(([name, isOff]) => ({ name, isOff, fix: 'leave it out' }));

/** Which tokens are chosen. What belongs to one of these (dry_base, xtc_threshold, mirostat_tau ...) means nothing while it is off. */
const choosing = leaveOut(
  ['frequency_penalty', is(0)],
  ['presence_penalty', is(0)],
  ['repetition_penalty', is(1)],
  ['logit_bias', isEmpty],
  ['min_p', is(0)],
  ['use_beam_search', is(false)],
  ['length_penalty', is(1)],
  ['allowed_token_ids', isEmpty],
  ['bad_words', isEmpty],
  ['logits_processors', isEmpty],
  ['repetition_detection', is()],
  ['vllm_xargs', isEmpty],
  ['thinking_token_budget', is(-1)],
  // Of llama.cpp's server.
  ['repeat_penalty', is(1)],
  ['typical_p', is(1)],
  ['tfs_z', is(1)],
  ['top_n_sigma', isAtMost0],
  ['min_keep', is(0, 1)],
  ['dynatemp_range', isAtMost0],
  ['xtc_probability', isAtMost0],
  ['dry_multiplier', is(0)],
  ['mirostat', is(0)],
  ['adaptive_target', isAtMost0],
  ['samplers', is()],
  ['lora', isEmpty],
  ['reasoning_budget_tokens', is(-1)],
  ['thinking_budget_tokens', is(-1)],
);

/** The form of the answer, where it ends, and what is shown of it. */
const shaping: readonly UnsupportedField[] = [
  ...leaveOut(
    ['guided_json', is()],
    ['guided_regex', is()],
    ['guided_choice', is()],
    ['guided_grammar', is()],
    ['structured_outputs', is()],
    ['include_stop_str_in_output', is(false)],
    ['skip_special_tokens', is(true)],
    ['spaces_between_special_tokens', is(true)],
    // 0 asks for the prompt's own.
    ['prompt_logprobs', is()],
    ['logprob_token_ids', isEmpty],
    ['return_token_ids', is(false)],
    ['return_tokens_as_token_ids', is(false)],
    // Of llama.cpp's server.
    ['grammar', is('')],
    ['json_schema', is()],
    ['n_indent', is(0)],
    ['t_max_predict_ms', isAtMost0],
    ['return_tokens', is(false)],
    ['response_fields', isEmpty],
    ['post_sampling_probs', is(false)],
    ['preserved_tokens', isEmpty],
  ),
  { name: 'response_format', isOff: isTextFormat, fix: 'only {"type": "text"} is known' },
  { name: 'n_predict', isOff: is(-1), fix: 'use max_tokens' },
  { name: 'n_cmpl', isOff: is(1), fix: 'use n' },
  { name: 'n_probs', isOff: is(0), fix: 'use logprobs' },
  { name: 'echo', isOff: is(false), fix: 'put the prompt before the answer yourself' },
  { name: 'resume', isOff: is(), fix: 'only the gRPC API and its SDK have it' },
];

const common: readonly UnsupportedField[] = [
  ...choosing,
  ...shaping,
  ...leaveOut(['truncate_prompt_tokens', is()]),
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
    ['verbosity', is('medium')],
    ['chat_template_kwargs', isEmpty],
    ['add_generation_prompt', is(true)],
    ['continue_final_message', is(false)],
    ['chat_template', is()],
    ['documents', isEmpty],
    // A template writes the special tokens itself.
    ['add_special_tokens', is(false)],
    ['include_reasoning', is(true)],
    ['reasoning_format', is('none')],
  ),
  { name: 'modalities', isOff: isTextOnly, fix: 'only ["text"] is known' },
];

const completionOnly: readonly UnsupportedField[] = [
  ...leaveOut(['add_special_tokens', is(true)]),
  { name: 'suffix', isOff: is(''), fix: 'leave it out; no model here fills a gap' },
  { name: 'prompt_embeds', isOff: is(), fix: 'give the prompt as a text or token ids' },
];

/** Of one message of a chat. */
const messageFields: readonly UnsupportedField[] = [
  ...leaveOut(
    ['name', is('')],
    ['refusal', is('')],
    ['reasoning', is('')],
    ['reasoning_content', is('')],
    ['prefix', is(false)],
  ),
  ...['tool_calls', 'function_call', 'audio'].map((name) => ({
    name,
    isOff: isEmpty,
    fix: 'leave it out; tools and audio are not supported',
  })),
];

/** Throws 400 unsupported_parameter naming the field, its value and the fix. */
export function refuseUnsupported(body: Body, endpoint: 'chat' | 'completion'): void {
  refuse([...common, ...(endpoint === 'chat' ? chatOnly : completionOnly)], body, '');
  const { best_of: bestOf, n } = body;
  if (bestOf !== undefined && bestOf !== null && bestOf !== (n ?? 1)) {
    throw unsupported('best_of', bestOf, 'use n, and choose among the answers by their logprobs');
  }
}

/** The same for a message of a chat; `field` is where it stands. */
export function refuseInMessage(message: Body, field: string): void {
  refuse(messageFields, message, `${field}.`);
}

function refuse(fields: readonly UnsupportedField[], body: Body, prefix: string): void {
  for (const { name, isOff, fix } of fields) {
    const value = body[name];
    if (value === undefined || value === null || isOff(value)) continue;
    throw unsupported(prefix + name, value, fix);
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
