import type { Clock } from '../../proto/base/clock.ts';

/** We stop believing in a lease this share of its life after the last keepalive; the store drops it after the whole. */
const trustShare = 0.7;

/**
 * How long a lease may be believed in, by our own monotonic clock. The life counts from when the granting or renewing message was sent:
 * an answer that lay unread while this process was stopped says nothing about now.
 */
export class LeaseTrust {
  readonly #clock: Clock;
  readonly #trustMs: number;
  /** When the keepalives that are not answered yet were sent, oldest first. */
  #sentMs: number[] = [];
  #untilMs: number;

  /** `sentMs`: when the lease was asked for. */
  constructor(ttlMs: number, clock: Clock, sentMs: number) {
    this.#clock = clock;
    this.#trustMs = ttlMs * trustShare;
    this.#untilMs = sentMs + this.#trustMs;
  }

  get remainingMs(): number {
    return this.#untilMs - this.#clock.nowMs();
  }

  get isOver(): boolean {
    return this.remainingMs <= 0;
  }

  /** A new stream: what was asked on the last one will not be answered. */
  streamOpened(): void {
    this.#sentMs = [];
  }

  keepaliveSent(): void {
    this.#sentMs.push(this.#clock.nowMs());
  }

  /** Answers come in the order of the questions. Trust that is over does not come back. */
  keepaliveAnswered(): void {
    const sentMs = this.#sentMs.shift();
    if (sentMs === undefined || this.isOver) return;
    this.#untilMs = Math.max(this.#untilMs, sentMs + this.#trustMs);
  }
}
