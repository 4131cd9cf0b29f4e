import type { HelsError } from '../../proto/domain/errors.ts';
import type {
  GenerationEvent,
  GenerationRequest,
  TokenEvent,
} from '../../proto/domain/generation.ts';
import { AsyncQueue } from './async-queue.ts';

/** What becomes of a request whose epoch has ended before it: it may be taken over by another, or ended. */
export type EpochEnded = (caller: Caller, error: HelsError) => void;

/** Who waits for the tokens of one request: the way to them, and what they have been given. May outlive an epoch. */
export class Caller {
  readonly queue: AsyncQueue<GenerationEvent>;
  readonly arrivalMs: number;
  /** A step of this epoch has named the request. */
  named = false;
  /** Of any epoch. */
  started = false;
  /** When its sequence gave way; null unless it waits for that. */
  gaveWayMs: number | null = null;
  readonly #request: GenerationRequest;
  readonly #signal: AbortSignal;
  readonly #given: number[] = [];
  readonly #left = () => this.#whenLeft?.();
  readonly #epochEnded: EpochEnded | null;
  #whenLeft: (() => void) | null = null;

  /** Without `epochEnded` the request ends with its epoch. */
  constructor(
    request: GenerationRequest,
    signal: AbortSignal,
    arrivalMs: number,
    epochEnded: EpochEnded | null,
  ) {
    this.#request = request;
    this.#signal = signal;
    this.arrivalMs = arrivalMs;
    this.#epochEnded = epochEnded;
    // One token event per token and one end: the queue never fills by itself.
    this.queue = new AsyncQueue(request.maxTokens + 2, this.#left);
    signal.addEventListener('abort', this.#left, { once: true });
  }

  /** The caller may go away before it reads anything, and while nobody computes: whoever has the request hears of it, now if it has gone. */
  onLeft(whenLeft: () => void): void {
    this.#whenLeft = whenLeft;
    if (this.#signal.aborted) whenLeft();
  }

  get tokensGiven(): number {
    return this.#given.length;
  }

  /**
   * What is still to be computed. The same tokens follow on any split: they depend on those before, the seed and the position. An answer
   * of as many tokens as fit has as many as fit into `contextTokensMax`; null: it is complete. A prompt that does not fit is left as it is.
   */
  restWithin(contextTokensMax: number): GenerationRequest | null {
    const request = this.#request;
    const promptTokenIds = [...request.promptTokenIds, ...this.#given];
    const left = request.maxTokens - this.#given.length;
    const room = contextTokensMax - promptTokenIds.length;
    const isBounded = request.fillsContext && (room > 0 || this.#given.length > 0);
    const maxTokens = isBounded ? Math.min(left, room) : left;
    return maxTokens < 1 ? null : { ...request, promptTokenIds, maxTokens };
  }

  /** Positions of it that were computed, by the tokens given: the newest of them may be in no step yet. */
  get computed(): number {
    const given = this.#given.length;
    return given === 0 ? 0 : this.#request.promptTokenIds.length + given - 1;
  }

  give(event: TokenEvent): void {
    this.#given.push(event.tokenId);
    this.queue.push(event);
  }

  /** The last event. */
  end(event: Exclude<GenerationEvent, TokenEvent>): void {
    this.#whenLeft = null;
    this.#signal.removeEventListener('abort', this.#left);
    this.queue.push(event);
    this.queue.end();
  }

  epochEnded(error: HelsError): void {
    this.#whenLeft = null;
    if (this.#epochEnded === null) this.end({ type: 'failed', error });
    else this.#epochEnded(this, error);
  }
}
