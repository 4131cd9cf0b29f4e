/** Bodies of the OpenAI endpoints, parsed into TextRequests. Types here; ranges, which gRPC shares, in generation-request.ts. */
import { z } from 'zod';
import { HelsError } from '../../../proto/domain/errors.ts';
import { limits } from '../../limits.ts';
import type { ChatMessage } from '../../tokenizer/text-jobs.ts';
import { chatRoles, templateRole } from '../chat-roles.ts';
import {
  refused,
  requestInvalid,
  type TextInput,
  type TextRequest,
} from '../generation-request.ts';
import { refuseInMessage, refuseUnsupported, unsupported } from './unsupported-fields.ts';

type Body = Readonly<Record<string, unknown>>;

/** What a request asks for, beside how each answer is made. */
export interface AnswersWanted {
  /** One per prompt. */
  requests: TextRequest[];
  /** Answers per prompt. */
  n: number;
  stream: boolean;
  includeUsage: boolean;
}

const not =
  (allowed: string) =>
  ({ input }: { input?: unknown }) =>
    refused(input, allowed);

const tooMany =
  (most: number, what: string) =>
  ({ input }: { input?: unknown }) =>
    `${(input as unknown[]).length} are more than the ${most} ${what} a request may have`;

const flag = z.boolean({ error: not('true or false') }).nullish();
const number = z.number({ error: not('a number') }).nullish();
const wholeFrom = (low: number, high: number) => {
  const error = not(`a whole number from ${low} to ${high}`);
  return z.number({ error }).int({ error }).min(low, { error }).max(high, { error }).nullish();
};

const modelIdCharacters = `a text of 1 to ${limits.modelIdCharactersMax} characters`;
const common = {
  model: z
    .string({ error: not('the id of a model, see /v1/models') })
    .min(1, { error: not(modelIdCharacters) })
    .max(limits.modelIdCharactersMax, { error: not(modelIdCharacters) }),
  temperature: number,
  top_p: number,
  top_k: number,
  seed: number,
  max_tokens: number,
  min_tokens: number,
  n: wholeFrom(1, limits.choicesMax),
  // Bounded before their elements are looked at: zod keeps an issue for each that is wrong.
  stop: z
    .union([z.string(), z.array(z.string()).max(limits.stopStringsMax)], {
      error: not(`a text or a list of at most ${limits.stopStringsMax} texts`),
    })
    .nullish(),
  stream: flag,
  stream_options: z
    .object({ include_usage: flag }, { error: not('an object such as {"include_usage": true}') })
    .nullish(),
  stop_token_ids: z
    .array(z.number({ error: not('a token id') }), { error: not('a list of token ids') })
    .max(limits.stopTokenIdsMax, { error: tooMany(limits.stopTokenIdsMax, 'token ids') })
    .nullish(),
  ignore_eos: flag,
  cache_salt: z.string({ error: () => 'is not a text' }).nullish(),
  prefix_cache: flag,
  priority: number,
};

const message = z.object(
  {
    role: z.enum(chatRoles, { error: not(`one of ${chatRoles.join(', ')}`) }),
    content: z.unknown().optional(),
  },
  { error: not('an object with role and content') },
);

const chatSchema = z.object({
  ...common,
  max_completion_tokens: number,
  messages: z
    .array(message, { error: not('a list of messages') })
    .min(1, { error: 'is empty; give at least one message' })
    .max(limits.chatMessagesMax, { error: tooMany(limits.chatMessagesMax, 'messages') }),
  logprobs: flag,
  top_logprobs: wholeFrom(0, limits.logprobsMax),
});

const completionSchema = z.object({
  ...common,
  prompt: z.unknown().optional(),
  logprobs: wholeFrom(0, limits.logprobsMax),
});

function parse<Schema extends z.ZodType>(schema: Schema, body: Body): z.infer<Schema> {
  const result = schema.safeParse(body, { reportInput: true });
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const field = pathText(issue?.path ?? []);
  throw new HelsError('request-invalid', `${field}: ${issue?.message ?? 'is wrong'}`, { field });
}

function pathText(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, part) => {
    if (typeof part === 'number') return `${text}[${part}]`;
    return text === '' ? String(part) : `${text}.${String(part)}`;
  }, '');
}

export function parseChatRequest(body: Body): AnswersWanted {
  refuseUnsupported(body, 'chat');
  const fields = parse(chatSchema, body);
  const messages = fields.messages.map(({ role, content }, index) => {
    const field = `messages[${index}]`;
    refuseInMessage((body['messages'] as Body[])[index] ?? {}, field);
    return { role: templateRole(role), content: contentText(content, `${field}.content`) };
  });
  if (typeof fields.top_logprobs === 'number' && fields.logprobs !== true) {
    throw requestInvalid('top_logprobs', fields.top_logprobs, 'allowed without "logprobs": true');
  }
  const logprobs = fields.logprobs === true ? (fields.top_logprobs ?? 0) : -1;
  const maxTokens = fields.max_completion_tokens ?? fields.max_tokens ?? null;
  return wanted({ ...fields, max_tokens: maxTokens }, [chatInput(messages)], logprobs);
}

export function parseCompletionRequest(body: Body): AnswersWanted {
  refuseUnsupported(body, 'completion');
  const fields = parse(completionSchema, body);
  return wanted(fields, parsePrompt(fields.prompt), fields.logprobs ?? -1);
}

type CommonFields = z.infer<z.ZodObject<typeof common>>;

function wanted(fields: CommonFields, inputs: TextInput[], logprobs: number): AnswersWanted {
  const n = fields.n ?? 1;
  if (inputs.length * n > limits.choicesMax) {
    const allowed = `allowed: ${inputs.length} prompts times n are more than ${limits.choicesMax} answers`;
    throw requestInvalid('n', n, allowed);
  }
  const { stop } = fields;
  const requests = inputs.map((input) => ({
    model: fields.model,
    input,
    temperature: fields.temperature ?? 1,
    topP: fields.top_p ?? 1,
    topK: fields.top_k ?? 0,
    logprobs,
    seed: fields.seed ?? null,
    maxTokens: fields.max_tokens ?? null,
    minTokens: fields.min_tokens ?? 0,
    stop: typeof stop === 'string' ? [stop] : (stop ?? []),
    stopTokenIds: fields.stop_token_ids ?? [],
    ignoreEndOfText: fields.ignore_eos ?? false,
    resume: null,
    cacheSalt: fields.cache_salt ?? null,
    prefixCache: fields.prefix_cache ?? true,
    priority: fields.priority ?? 0,
  }));
  const stream = fields.stream ?? false;
  return { requests, n, stream, includeUsage: fields.stream_options?.include_usage ?? false };
}

function chatInput(messages: ChatMessage[]): TextInput {
  return { type: 'chat', messages };
}

/** A text, or a list of text parts, which are put together. */
function contentText(content: unknown, field: string): string {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) throw requestInvalid(field, content, 'a text or a list of parts');
  if (content.length > limits.contentPartsMax) {
    const message = `${field}: ${content.length} parts are more than ${limits.contentPartsMax}`;
    throw new HelsError('request-invalid', message, { field });
  }
  const parts = content.map((part: unknown, index) => {
    const { type, text } = (part ?? {}) as Body;
    if (type !== 'text') {
      throw unsupported(`${field}[${index}].type`, type, 'only parts of type "text" are known');
    }
    if (typeof text !== 'string') throw requestInvalid(`${field}[${index}].text`, text, 'a text');
    return text;
  });
  return parts.join('');
}

/** A text, token ids, or a list of either. */
function parsePrompt(prompt: unknown): TextInput[] {
  if (typeof prompt === 'string') return [{ type: 'text', text: prompt }];
  const allowed = 'a text, a list of texts, a list of token ids or a list of such lists';
  if (!Array.isArray(prompt) || prompt.length === 0) {
    throw requestInvalid('prompt', prompt, allowed);
  }
  const items = prompt as unknown[];
  if (items.every(isNumber)) return [{ type: 'tokens', tokenIds: items }];
  if (items.length > limits.choicesMax) {
    throw new HelsError(
      'request-invalid',
      `prompt: ${items.length} prompts are more than ${limits.choicesMax}`,
      { field: 'prompt' },
    );
  }
  return items.map((item) => {
    if (typeof item === 'string') return { type: 'text', text: item };
    if (Array.isArray(item) && item.every(isNumber)) return { type: 'tokens', tokenIds: item };
    throw requestInvalid('prompt', item, allowed);
  });
}

const isNumber = (value: unknown): value is number => typeof value === 'number';
