/**
 * Requests that come while the model that served is being brought up again, after the loss of a worker mostly: they wait a while, as
 * those that ran wait (survivors.ts), rather than be refused.
 */
import type { Clock } from '../../proto/base/clock.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import { limits } from '../limits.ts';

export class Returning {
  readonly #clock: Clock;
  /** The model that served last; null: one serves, or none is on its way back. */
  #modelId: string | null = null;
  #untilMs = 0;
  readonly #waiting = new Set<() => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get count(): number {
    return this.#waiting.size;
  }

  /** The epoch that served it is over. Whether another is on its way, the next `tick` knows. */
  ended(modelId: string): void {
    this.#modelId = modelId;
    this.#untilMs = this.#clock.nowMs() + limits.returnWaitMsMax;
  }

  /** Something serves, or nothing will. */
  over(): void {
    this.#modelId = null;
    for (const go of this.#waiting) go();
  }

  /** `coming`: the models of which one is to serve by itself. */
  tick(coming: readonly string[]): void {
    if (this.#modelId !== null && !coming.includes(this.#modelId)) this.over();
  }

  /**
   * Resolves when the wait is over, when the epoch's end is `returnWaitMsMax` ago, or when the caller has left; at once when there is
   * nothing to wait for. `modelId`: null for whichever. Throws overloaded when as many wait as may.
   */
  async wait(modelId: string | null, signal: AbortSignal): Promise<void> {
    if (this.#modelId === null || signal.aborted) return;
    if (modelId !== null && modelId !== this.#modelId) return;
    const leftMs = this.#untilMs - this.#clock.nowMs();
    if (leftMs <= 0) return;
    if (this.#waiting.size >= limits.returnWaitingMax) {
      throw new HelsError(
        'overloaded',
        `${limits.returnWaitingMax} requests wait for the model to be served again already; try again`,
      );
    }
    await new Promise<void>((resolve) => {
      const go = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', go);
        this.#waiting.delete(go);
        resolve();
      };
      const timer = setTimeout(go, leftMs);
      signal.addEventListener('abort', go);
      this.#waiting.add(go);
    });
  }
}
