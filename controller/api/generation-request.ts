/** A generation as a client asks for it, whatever edge it came through. Field names in errors are those of the HTTP and gRPC APIs. */
import { HelsError } from '../../proto/domain/errors.ts';
import { limits } from '../limits.ts';
import { checkPromptCharacters } from '../tokenizer/prompt-characters.ts';
import type { ChatMessage } from '../tokenizer/text-jobs.ts';

export type TextInput =
  | { type: 'text'; text: string }
  | { type: 'tokens'; tokenIds: readonly number[] }
  | { type: 'chat'; messages: readonly ChatMessage[] };

export interface TextRequest {
  /** null: the model being served. */
  model: string | null;
  input: TextInput;
  /** 0 = greedy. */
  temperature: number;
  /** 1 = off. */
  topP: number;
  /** 0 and -1 = off. */
  topK: number;
  /** -1 = none; n = logprob of each token and of the n most likely ones. */
  logprobs: number;
  /** null: drawn, and told in the first event. With `resume` its seed counts. */
  seed: number | null;
  /** null: as many as fit. Tokens of `resume` count. */
  maxTokens: number | null;
  /** The answer has at least so many before an end of text, a stop token or a stop text can end it. */
  minTokens: number;
  stop: readonly string[];
  /** The answer ends with one of these too, whatever `ignoreEndOfText` says. */
  stopTokenIds: readonly number[];
  ignoreEndOfText: boolean;
  /** Tokens the client already has of this answer, and the seed they were made with. */
  resume: { tokenIds: readonly number[]; seed: number } | null;
  /** KV of equal beginnings is shared only between requests of one salt; null: with all that have none. */
  cacheSalt: string | null;
  /** false: neither uses KV of others nor leaves its own to them. */
  prefixCache: boolean;
  /** Lower values go first; 0 unless given. */
  priority: number;
}

export function requestInvalid(field: string, value: unknown, allowed: string): HelsError {
  return new HelsError('request-invalid', `${field}: ${refused(value, allowed)}`, { field });
}

/** Why a value, or its want, is refused. */
export function refused(value: unknown, allowed: string): string {
  return value === undefined ? `is missing; give ${allowed}` : `${shown(value)} is not ${allowed}`;
}

/** A value in a message: short, on one line. */
export function shown(value: unknown): string {
  // JSON has no word for numbers that are not finite.
  if (typeof value === 'number') return String(value);
  // More elements of a list are not shown, and there can be millions of them.
  const part: unknown = Array.isArray(value) ? value.slice(0, 40) : value;
  const text = JSON.stringify(part) ?? String(part);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

function checkNumber(field: string, value: number, low: number, high: number, whole: boolean) {
  const inRange = value >= low && value <= high && (!whole || Number.isInteger(value));
  if (inRange) return;
  const kind = whole ? 'a whole number' : 'a number';
  throw requestInvalid(field, value, `${kind} from ${low} to ${high}`);
}

const tokensMost = 2 ** 31 - 1;

/** Throws request-invalid unless an answer of at most `maxTokens` can have so many. */
export function checkMinTokens(minTokens: number, maxTokens: number): void {
  if (Number.isInteger(minTokens) && minTokens >= 0 && minTokens <= maxTokens) return;
  const allowed = `a whole number from 0 to ${maxTokens}, as many as the answer may have`;
  throw requestInvalid('min_tokens', minTokens, allowed);
}

/** Throws request-invalid naming the field, its value and the allowed range. What depends on the model is checked with it. */
export function checkTextRequest(request: TextRequest): void {
  checkNumber('temperature', request.temperature, 0, limits.temperatureMax, false);
  // Ranks get it as a 32-bit float: one that is 0 there keeps no token.
  if (!(Math.fround(request.topP) > 0 && request.topP <= 1)) {
    throw requestInvalid('top_p', request.topP, 'a 32-bit float above 0 and up to 1');
  }
  checkNumber('top_k', request.topK, -1, 2 ** 31 - 1, true);
  checkNumber('logprobs', request.logprobs, -1, limits.logprobsMax, true);
  if (request.seed !== null) checkSeed('seed', request.seed);
  if (request.maxTokens !== null) {
    checkNumber('max_tokens', request.maxTokens, 1, tokensMost, true);
  }
  checkMinTokens(request.minTokens, request.maxTokens ?? tokensMost);
  if (request.resume !== null) checkSeed('resume.seed', request.resume.seed);
  checkStop(request.stop);
  checkStopTokenIds(request.stopTokenIds);
  checkNumber('priority', request.priority, -limits.priorityMost, limits.priorityMost, true);
  if (request.cacheSalt !== null) checkCacheSalt(request.cacheSalt);
  checkInput(request.input);
}

/** Says how many there are, not which: that could be megabytes. */
function tooMany(field: string, count: number, most: string): HelsError {
  return new HelsError('request-invalid', `${field}: ${count} are more than ${most}`, { field });
}

function checkSeed(field: string, seed: number): void {
  if (Number.isSafeInteger(seed) && seed >= 0) return;
  throw requestInvalid(field, seed, 'a whole number from 0 to 2^53 - 1');
}

function checkStop(stop: readonly string[]): void {
  if (stop.length > limits.stopStringsMax) {
    throw tooMany('stop', stop.length, `the ${limits.stopStringsMax} texts a request may have`);
  }
  for (const text of stop) {
    if (text.length < 1 || text.length > limits.stopCharactersMax) {
      throw requestInvalid('stop', text, `a text of 1 to ${limits.stopCharactersMax} characters`);
    }
  }
}

/** How many; which there are, the model says. */
function checkStopTokenIds(tokenIds: readonly number[]): void {
  if (tokenIds.length <= limits.stopTokenIdsMax) return;
  const most = `the ${limits.stopTokenIdsMax} token ids a request may have`;
  throw tooMany('stop_token_ids', tokenIds.length, most);
}

function checkCacheSalt(salt: string): void {
  if (salt.length >= 1 && salt.length <= limits.cacheSaltCharactersMax) return;
  // The salt itself stays out of the message: who knows it can find out what its tenant has asked.
  const allowed = `1 to ${limits.cacheSaltCharactersMax} characters`;
  throw new HelsError(
    'request-invalid',
    `cache_salt: ${salt.length} characters are not ${allowed}; leave it out to share with all`,
    { field: 'cache_salt' },
  );
}

function checkInput(input: TextInput): void {
  if (input.type === 'text') checkPromptCharacters('prompt', input.text.length);
  if (input.type !== 'chat') return;
  const count = input.messages.length;
  if (count < 1 || count > limits.chatMessagesMax) {
    const allowed = `1 to ${limits.chatMessagesMax} messages`;
    throw new HelsError('request-invalid', `messages: ${count} are not ${allowed}`, {
      field: 'messages',
    });
  }
  const characters = input.messages.reduce((sum, { content }) => sum + content.length, 0);
  checkPromptCharacters('messages', characters);
}

/** A tokenizer can have tokens that the model has no row for: added ones, as a rule. `nameOf`: of a token, for people. */
export function checkTextTokens(
  field: string,
  tokenIds: readonly number[],
  vocabularySize: number,
  nameOf: (tokenId: number) => string,
): void {
  const stray = tokenIds.find((id) => id >= vocabularySize);
  if (stray === undefined) return;
  throw new HelsError(
    'request-invalid',
    `${field}: has ${shown(nameOf(stray))}, token ${stray} of the tokenizer; the model computes with tokens 0 to ${vocabularySize - 1} only; leave it out`,
    { field },
  );
}

/** Token ids from a client must be rows of the embedding. */
export function checkTokenIds(
  field: string,
  tokenIds: readonly number[],
  vocabularySize: number,
): void {
  for (const [index, id] of tokenIds.entries()) {
    if (Number.isInteger(id) && id >= 0 && id < vocabularySize) continue;
    const allowed = `a token id of the model, 0 to ${vocabularySize - 1}`;
    throw requestInvalid(`${field}[${index}]`, id, allowed);
  }
}
