import type { ServingMetrics } from '../metrics/serving-metrics.ts';

/** Times of one answer's tokens, in milliseconds of the caller's clock, into the metrics. */
export class TokenTiming {
  readonly #arrivalMs: number;
  readonly #metrics: ServingMetrics;
  #firstMs = 0;
  #lastMs = 0;
  #tokens = 0;

  constructor(arrivalMs: number, metrics: ServingMetrics) {
    this.#arrivalMs = arrivalMs;
    this.#metrics = metrics;
  }

  get tokens(): number {
    return this.#tokens;
  }

  token(nowMs: number): void {
    if (this.#tokens === 0) {
      this.#firstMs = nowMs;
      this.#metrics.timeToFirstToken.observe((nowMs - this.#arrivalMs) / 1000);
    } else this.#metrics.interTokenLatency.observe((nowMs - this.#lastMs) / 1000);
    this.#lastMs = nowMs;
    this.#tokens += 1;
    this.#metrics.tokensGenerated.inc();
  }

  /** TTFT from arrival, queueing included; TPOT = (last - first) / (tokens - 1). 0 where there is nothing to measure. */
  summary(): { timeToFirstTokenSeconds: number; timePerOutputTokenSeconds: number } {
    const gaps = this.#tokens - 1;
    return {
      timeToFirstTokenSeconds: this.#tokens > 0 ? (this.#firstMs - this.#arrivalMs) / 1000 : 0,
      timePerOutputTokenSeconds: gaps > 0 ? (this.#lastMs - this.#firstMs) / 1000 / gaps : 0,
    };
  }

  end(): void {
    if (this.#tokens > 1) {
      this.#metrics.timePerOutputToken.observe(this.summary().timePerOutputTokenSeconds);
    }
  }
}
