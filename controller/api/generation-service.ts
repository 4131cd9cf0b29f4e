/** Generation of text over the engine's token ids: the one path behind the HTTP and the gRPC API. */
import type { Clock } from '../../proto/base/clock.ts';
import { type ErrorCode, HelsError, toHelsError } from '../../proto/domain/errors.ts';
import type {
  GenerationEngine,
  GenerationLimits,
  GenerationRequest,
  TokenEvent,
  TokenLogprob,
} from '../../proto/domain/generation.ts';
import { limits } from '../limits.ts';
import type { ServingMetrics } from '../metrics/serving-metrics.ts';
import type { TextModel } from '../tokenizer/text-model.ts';
import { AnswerText } from './answer-text.ts';
import type { Chance } from './chance.ts';
import { bannedOf, endIdsOf } from './end-tokens.ts';
import {
  checkMinTokens,
  checkTextRequest,
  checkTextTokens,
  checkTokenIds,
  type TextRequest,
} from './generation-request.ts';
import { TokenTiming } from './token-timing.ts';

export interface ServedModel {
  modelId: string;
  text: TextModel;
  createdUnixSeconds: number;
}

export interface StartedText {
  type: 'started';
  requestId: string;
  seed: number;
  modelDigest: string;
  quantization: string;
  numericsClass: GenerationLimits['numericsClass'];
  promptTokenIds: readonly number[];
}

export interface TextLogprob extends TokenLogprob {
  /** Unicode code points of the answer before the text of this token, those still held back included. */
  textOffset: number;
  topLogprobs: TokenLogprob[];
}

interface TextDelta {
  type: 'delta';
  /** Whole characters; empty while one is under way or a stop string may be. */
  text: string;
  /** The tokens since the last delta, the one that ends the text included. */
  tokenIds: number[];
  /** One per token when asked for, else empty. */
  logprobs: TextLogprob[];
}

interface FinishedText {
  type: 'finished';
  reason: 'stop' | 'length';
  promptTokens: number;
  /** Tokens of the whole answer, those of `resume` included. */
  completionTokens: number;
  /** Of the prompt: their KV came from the prefix cache. */
  cachedTokens: number;
  /** Arrival to the first token of this call; 0 when there was none. */
  timeToFirstTokenSeconds: number;
  /** (last - first) / (tokens - 1); 0 with fewer than two. */
  timePerOutputTokenSeconds: number;
}

export type TextEvent = StartedText | TextDelta | FinishedText;

/** A request that was checked and tokenized: `run` it once for each answer wanted. */
export interface PreparedText {
  request: TextRequest;
  model: ServedModel;
  group: GenerationLimits;
  promptTokenIds: readonly number[];
  maxTokens: number;
  seed: number;
}

export interface GenerationServiceOptions {
  engine: GenerationEngine;
  /** The model being served; null while there is none. */
  servedModel(): ServedModel | null;
  /** Resolves at once unless the model (null: whichever) served and is on its way back; then once it serves, or will not for long. */
  awaitReturn(modelId: string | null, signal: AbortSignal): Promise<void>;
  metrics: ServingMetrics;
  clock: Clock;
  chance: Chance;
}

export interface CallContext {
  /** Clock.nowMs() when the request's first byte was seen: what TTFT counts from. */
  arrivalMs: number;
  signal: AbortSignal;
}

export class GenerationService {
  readonly #engine: GenerationEngine;
  readonly #servedModel: () => ServedModel | null;
  readonly #awaitReturn: GenerationServiceOptions['awaitReturn'];
  readonly #metrics: ServingMetrics;
  readonly #clock: Clock;
  readonly #chance: Chance;

  constructor(options: GenerationServiceOptions) {
    this.#engine = options.engine;
    this.#servedModel = options.servedModel;
    this.#awaitReturn = options.awaitReturn;
    this.#metrics = options.metrics;
    this.#clock = options.clock;
    this.#chance = options.chance;
  }

  servedModel(): ServedModel | null {
    return this.#servedModel();
  }

  /** One `started`, `delta`s, one `finished`; or throws HelsError. Nothing is given before the engine has taken the request. */
  async *generate(
    request: TextRequest,
    context: CallContext,
  ): AsyncGenerator<TextEvent, void, undefined> {
    yield* this.run(await this.prepare(request, context.signal), context);
  }

  /** Waits while the model is on its way back. Throws request-invalid, model-not-found, context-too-long, overloaded, not-ready, draining or why the caller left. */
  async prepare(request: TextRequest, signal: AbortSignal): Promise<PreparedText> {
    try {
      checkTextRequest(request);
      return await this.#prepare(request, signal);
    } catch (error) {
      const failure = toHelsError(error);
      this.#metrics.requestEnded(failure.code);
      throw failure;
    }
  }

  async #prepare(request: TextRequest, signal: AbortSignal): Promise<PreparedText> {
    for (;;) {
      await this.#awaitReturn(request.model, signal);
      signal.throwIfAborted();
      const model = this.modelNamed(request.model);
      try {
        return await this.#prepareFor(model, request, signal);
      } catch (error) {
        // Its epoch ended while the prompt was read.
        if (this.#servedModel()?.text === model.text) throw error;
      }
    }
  }

  async #prepareFor(
    model: ServedModel,
    request: TextRequest,
    signal: AbortSignal,
  ): Promise<PreparedText> {
    const promptTokenIds = await this.#tokenize(request, model, this.#limitsOf(model), signal);
    // Another plan may have come meanwhile: a bound that the room gives is of this moment.
    const group = this.#limitsOf(model);
    const maxTokens = checkRoom(request, group, promptTokenIds.length);
    // An answer that goes on ends where the room of the moment does, as over any change of plans.
    const endsWithRoom = request.resume !== null && request.maxTokens === null;
    if (!endsWithRoom) checkMinTokens(request.minTokens, maxTokens);
    const seed = request.resume?.seed ?? request.seed ?? this.#chance.seed();
    return { request, model, group, promptTokenIds, maxTokens, seed };
  }

  /** Of the group that serves the model; throws not-ready when none does. */
  #limitsOf({ modelId }: ServedModel): GenerationLimits {
    const group = this.#engine.limits();
    if (group === null || group.modelId !== modelId) throw notReady();
    return group;
  }

  /** The model a client names; throws model-not-found or, when none is served, not-ready. */
  modelNamed(id: string | null): ServedModel {
    const model = this.#servedModel();
    if (model === null) throw notReady();
    if (id === null || id === model.modelId) return model;
    throw new HelsError(
      'model-not-found',
      `model: '${id.slice(0, limits.modelIdCharactersMax)}' is not served here; the model served is '${model.modelId}'`,
      { field: 'model' },
    );
  }

  async *run(
    prepared: PreparedText,
    context: CallContext,
  ): AsyncGenerator<TextEvent, void, undefined> {
    const { request, promptTokenIds, maxTokens } = prepared;
    const resumed = request.resume?.tokenIds ?? [];
    const endIds = endIdsOf(request, prepared.model.text);
    const text = answerTextOf(prepared);
    const timing = new TokenTiming(context.arrivalMs, this.#metrics);
    const started = this.#started(prepared);
    let cachedTokens = 0;
    /** null: whoever asked took no more of it. */
    let outcome: 'stop' | 'length' | ErrorCode | null = null;
    /** What was held back belongs to no token. */
    function* finish(ended: 'stop' | 'length'): Generator<TextEvent, void, undefined> {
      const rest = text.flush();
      if (rest.text !== '') yield { type: 'delta', text: rest.text, tokenIds: [], logprobs: [] };
      const reason = rest.stopped ? 'stop' : ended;
      outcome = reason;
      yield {
        type: 'finished',
        reason,
        promptTokens: promptTokenIds.length,
        completionTokens: resumed.length + timing.tokens,
        // The engine counts the tokens of `resume` to the prompt.
        cachedTokens: Math.min(cachedTokens, promptTokenIds.length),
        ...timing.summary(),
      };
    }

    const stopEngine = new AbortController();
    const signal = AbortSignal.any([context.signal, stopEngine.signal]);
    let first = true;
    try {
      const ended = replay(text, resumed, endIds, maxTokens);
      if (ended !== null) {
        yield started;
        yield* finish(ended);
        return;
      }
      const engineRequest = this.#engineRequest(prepared, started.requestId, endIds);
      for await (const event of this.#engine.generate(engineRequest, signal)) {
        if (event.type === 'failed') throw event.error;
        // Only now is it sure that the engine took the request, and an edge can still answer with a status.
        if (first) {
          this.#metrics.promptTokens.inc(promptTokenIds.length);
          yield started;
          // After the loss of a worker the tokens of the answer are computed anew, from caches even.
          if (event.type === 'token') ({ cachedTokens } = event);
        }
        first = false;
        if (event.type === 'finished') {
          yield* finish(event.reason);
          return;
        }
        timing.token(this.#clock.nowMs());
        const piece = text.push(event.tokenId);
        yield deltaOf(piece.text, event, request.logprobs, piece.offset);
        if (piece.stopped) {
          yield* finish('stop');
          return;
        }
      }
      throw new HelsError('internal', 'the engine ended an answer without saying why');
    } catch (error) {
      const failure = failureOf(error, context.signal);
      outcome = failure.code;
      throw failure;
    } finally {
      // A stop string or a client that left ends the answer before the engine does: its KV blocks go back now.
      const left = new HelsError('cancelled', 'the answer is complete');
      stopEngine.abort(left);
      timing.end();
      this.#metrics.requestEnded(outcome ?? failureOf(left, context.signal).code);
    }
  }

  async #tokenize(
    request: TextRequest,
    model: ServedModel,
    group: GenerationLimits,
    signal: AbortSignal,
  ): Promise<readonly number[]> {
    const { input } = request;
    const { text } = model;
    if (input.type === 'tokens') {
      // Before looking at each id: a list longer than the context is refused by its length.
      checkRoom(request, group, input.tokenIds.length);
      checkTokenIds('prompt', input.tokenIds, text.vocabularySize);
    }
    if (request.resume !== null) {
      const resumed = request.resume.tokenIds.length;
      if (resumed >= group.contextTokensMax) throw tooLong(group, resumed, 'resume.token_ids', 0);
      checkTokenIds('resume.token_ids', request.resume.tokenIds, text.vocabularySize);
    }
    checkTokenIds('stop_token_ids', request.stopTokenIds, text.vocabularySize);
    if (input.type === 'tokens') return input.tokenIds;
    const tokenIds =
      input.type === 'text'
        ? await text.encode(input.text, true, signal)
        : await text.encodeChat(input.messages, signal);
    const field = input.type === 'text' ? 'prompt' : 'messages';
    checkTextTokens(field, tokenIds, text.vocabularySize, (id) => text.nameOf(id));
    return tokenIds;
  }

  #started(prepared: PreparedText): StartedText {
    return {
      type: 'started',
      requestId: this.#chance.requestId(),
      seed: prepared.seed,
      modelDigest: prepared.group.modelDigest,
      quantization: prepared.group.quantization,
      numericsClass: prepared.group.numericsClass,
      promptTokenIds: prepared.promptTokenIds,
    };
  }

  #engineRequest(
    prepared: PreparedText,
    requestId: string,
    stopTokenIds: readonly number[],
  ): GenerationRequest {
    const { request, model, seed, promptTokenIds, maxTokens } = prepared;
    const resumed = request.resume?.tokenIds ?? [];
    const { topP, topK, logprobs, cacheSalt, priority } = request;
    const temperature = request.temperature < limits.temperatureMin ? 0 : request.temperature;
    return {
      requestId,
      promptTokenIds: resumed.length === 0 ? promptTokenIds : [...promptTokenIds, ...resumed],
      sampling: { temperature, topP, topK: Math.max(0, topK), seed, logprobs },
      maxTokens: maxTokens - resumed.length,
      fillsContext: request.maxTokens === null,
      stopTokenIds,
      ...bannedOf(request, model.text, promptTokenIds.length),
      prefixCache: request.prefixCache ? { salt: cacheSalt ?? '' } : null,
      priority,
    };
  }
}

/** A completion goes on where its prompt ends, with the space between two words. An answer in a chat is a message of its own. */
function answerTextOf({ request, model, promptTokenIds }: PreparedText): AnswerText {
  const continued = request.input.type === 'chat' ? [] : promptTokenIds;
  return new AnswerText(model.text.detokenizer(continued), request.stop, request.minTokens);
}

/** Feeds the tokens a client already has; how the answer ended with them, null when it goes on. */
function replay(
  text: AnswerText,
  resumed: readonly number[],
  endIds: readonly number[],
  maxTokens: number,
): 'stop' | 'length' | null {
  for (const tokenId of resumed) {
    if (text.push(tokenId).stopped) return 'stop';
  }
  const last = resumed.at(-1);
  if (last !== undefined && endIds.includes(last)) return 'stop';
  return resumed.length >= maxTokens ? 'length' : null;
}

function deltaOf(text: string, event: TokenEvent, asked: number, textOffset: number): TextDelta {
  const { tokenId, topLogprobs } = event;
  const entry = { tokenId, logprob: event.logprob ?? 0, topLogprobs, textOffset };
  const logprobs = asked < 0 ? [] : [entry];
  return { type: 'delta', text, tokenIds: [tokenId], logprobs };
}

function notReady(): HelsError {
  return new HelsError('not-ready', 'no model is being served yet; see /ready or helsctl status');
}

/** Tokens the answer may have; throws context-too-long when prompt and answer do not fit. */
function checkRoom(request: TextRequest, group: GenerationLimits, promptTokens: number): number {
  const room = group.contextTokensMax - promptTokens;
  const field = request.input.type === 'chat' ? 'messages' : 'prompt';
  if (promptTokens === 0) {
    throw new HelsError('request-invalid', `${field}: is empty; give at least one token`, {
      field,
    });
  }
  const asked = request.maxTokens ?? 1;
  if (asked > room) throw tooLong(group, promptTokens, field, asked);
  return request.maxTokens ?? room;
}

function tooLong(group: GenerationLimits, tokens: number, field: string, asked: number): HelsError {
  return new HelsError(
    'context-too-long',
    `the context holds ${group.contextTokensMax} tokens, but ${tokens} of ${field} and ${asked} of the answer were asked for; shorten ${field} or lower max_tokens`,
    { field },
  );
}

/** The reason an edge gave for aborting (draining, deadline) is told rather than the engine's `cancelled`. */
function failureOf(error: unknown, signal: AbortSignal): HelsError {
  const failure = toHelsError(error);
  const ours = failure.code === 'cancelled' || failure.code === 'internal';
  if (signal.aborted && ours && signal.reason instanceof HelsError) return signal.reason;
  return failure;
}
