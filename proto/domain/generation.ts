/** Generation below the text: token ids in, token ids out. The port between the API edges and the step loop. */
import type { HelsError } from './errors.ts';

export interface SamplingParameters {
  /** 0 = greedy. */
  temperature: number;
  /** 1 = off. */
  topP: number;
  /** 0 = off. */
  topK: number;
  /** 0 to 2^53 - 1; with the position it decides the token, whatever the split or the batch. */
  seed: number;
  /** -1 = none; n = logprob of the sampled token and of the n most likely ones. */
  logprobs: number;
}

export interface GenerationRequest {
  requestId: string;
  promptTokenIds: readonly number[];
  sampling: SamplingParameters;
  /** At least 1. Prompt plus maxTokens fit the model and the KV room: checked by the engine, which throws context-too-long. */
  maxTokens: number;
  /** maxTokens is what the context had room for, not what was asked for: with less room it is less. Absent: no. */
  fillsContext?: boolean;
  /** Generation ends after one of these (it is still delivered as a token event). */
  stopTokenIds: readonly number[];
  /** None of `tokenIds` is sampled at a position, counted from the beginning of the prompt, before this one. Absent: all may be. */
  bannedBefore?: { position: number; tokenIds: readonly number[] };
  /** null: neither uses KV of others nor leaves its own to them. Requests share KV of equal beginnings under equal salts only. */
  prefixCache: { salt: string } | null;
  /** Lower values go first. Absent: 0. */
  priority?: number;
}

export interface TokenLogprob {
  tokenId: number;
  logprob: number;
}

export interface TokenEvent {
  type: 'token';
  tokenId: number;
  /** null unless asked for. */
  logprob: number | null;
  topLogprobs: TokenLogprob[];
  /** Leading tokens of the prompt whose KV came from the prefix cache. */
  cachedTokens: number;
}

interface FinishedEvent {
  type: 'finished';
  /** stop: a stop token; length: maxTokens reached. */
  reason: 'stop' | 'length';
}

interface FailedEvent {
  type: 'failed';
  error: HelsError;
}

export type GenerationEvent = TokenEvent | FinishedEvent | FailedEvent;

export interface GenerationEngine {
  /**
   * Queues the request; events come in order and end with exactly one `finished` or `failed`. Aborting the signal frees the request's
   * KV blocks and ends the iteration with a `failed` event of code `cancelled`. Leaving the iteration early (return) aborts too.
   * Throws request-invalid, context-too-long, overloaded, draining or not-ready before anything is queued.
   */
  generate(request: GenerationRequest, signal: AbortSignal): AsyncIterable<GenerationEvent>;
  /** What the serving group can hold; null while no model is served. */
  limits(): GenerationLimits | null;
}

export interface GenerationLimits {
  modelId: string;
  modelDigest: string;
  /** Of the weights in memory: none, int8, int4. */
  quantization: string;
  /** exact: equal fingerprints; mixed: unequal ones; fast: numerics off. */
  numericsClass: 'exact' | 'mixed' | 'fast';
  /** Positions of one sequence: the model's limit and the KV room, whichever is smaller. */
  contextTokensMax: number;
}
