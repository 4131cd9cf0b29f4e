import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { HelsError } from '../../proto/domain/errors.ts';
import type {
  GenerationEngine,
  GenerationEvent,
  GenerationLimits,
  GenerationRequest,
} from '../../proto/domain/generation.ts';

export interface FakeEngineOptions {
  limits: GenerationLimits | null;
  /** Tokens it chooses from; the first of the request's stop tokens now and then joins them. */
  alphabet: readonly number[];
  /** Used up first, token by token of the answer; null: none. */
  script: readonly number[] | null;
  tokenDelayMs: number;
  runningMax: number;
  /** Fails after this many tokens with `failure`. */
  failAfterTokens: number;
  /** Of every prompt, as if its KV had been there. */
  cachedTokens: number;
  failure: HelsError;
}

/**
 * An engine without a model: the next token is a hash of all tokens before it and, above temperature 0, of the seed. So an answer shows
 * whether the engine saw the right context, and repeats for the same one.
 */
export class FakeGenerationEngine implements GenerationEngine {
  readonly options: FakeEngineOptions;
  readonly requests: GenerationRequest[] = [];
  running = 0;
  aborted = 0;

  constructor(options: Partial<FakeEngineOptions> & Pick<FakeEngineOptions, 'alphabet'>) {
    this.options = {
      limits: {
        modelId: 'fake',
        modelDigest: 'd'.repeat(64),
        quantization: 'none',
        numericsClass: 'exact',
        contextTokensMax: 512,
      },
      script: null,
      tokenDelayMs: 0,
      runningMax: 128,
      failAfterTokens: Number.POSITIVE_INFINITY,
      cachedTokens: 0,
      failure: new HelsError('worker-lost', 'worker-1 does not answer any more'),
      ...options,
    };
  }

  limits(): GenerationLimits | null {
    return this.options.limits;
  }

  async *generate(
    request: GenerationRequest,
    signal: AbortSignal,
  ): AsyncGenerator<GenerationEvent, void, undefined> {
    if (this.running >= this.options.runningMax) {
      throw new HelsError('overloaded', `${this.options.runningMax} requests are running already`);
    }
    this.requests.push(request);
    this.running += 1;
    try {
      yield* this.#answer(request, signal);
    } finally {
      this.running -= 1;
      if (signal.aborted) this.aborted += 1;
    }
  }

  async *#answer(
    request: GenerationRequest,
    signal: AbortSignal,
  ): AsyncGenerator<GenerationEvent, void, undefined> {
    const context = [...request.promptTokenIds];
    for (let count = 0; ; count += 1) {
      await sleep(this.options.tokenDelayMs, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) {
        yield { type: 'failed', error: new HelsError('cancelled', 'the request was aborted') };
        return;
      }
      if (count >= this.options.failAfterTokens) {
        yield { type: 'failed', error: this.options.failure };
        return;
      }
      const tokenId = this.#next(request, context, count);
      context.push(tokenId);
      yield {
        type: 'token',
        tokenId,
        cachedTokens: this.options.cachedTokens,
        ...this.#logprobs(request, tokenId),
      };
      const stopped = request.stopTokenIds.includes(tokenId);
      if (stopped || count + 1 === request.maxTokens) {
        yield { type: 'finished', reason: stopped ? 'stop' : 'length' };
        return;
      }
    }
  }

  #next(request: GenerationRequest, context: readonly number[], count: number): number {
    const scripted = this.options.script?.[count];
    if (scripted !== undefined) return scripted;
    const { temperature, seed } = request.sampling;
    const hash = createHash('sha256').update(`${temperature > 0 ? seed : ''}:${context.join()}`);
    const value = hash.digest().readUInt32BE();
    const end = request.stopTokenIds[0];
    const { position = 0, tokenIds = [] } = request.bannedBefore ?? {};
    const banned = context.length < position ? tokenIds : [];
    if (end !== undefined && value % 61 === 0 && !banned.includes(end)) return end;
    return this.options.alphabet[value % this.options.alphabet.length] ?? 0;
  }

  #logprobs(request: GenerationRequest, tokenId: number) {
    const asked = request.sampling.logprobs;
    if (asked < 0) return { logprob: null, topLogprobs: [] };
    const others = this.options.alphabet.filter((id) => id !== tokenId).slice(0, asked);
    const candidates = [tokenId, ...others].slice(0, asked);
    return {
      logprob: -0.5,
      topLogprobs: candidates.map((id, rank) => ({ tokenId: id, logprob: -0.5 - rank })),
    };
  }
}
