/** One request of a trace. */
export interface Arrival {
  /** From the start of the trace. */
  readonly atSeconds: number;
  readonly promptTokens: number;
  /** Tokens that the answer has; at least 1. */
  readonly outputTokens: number;
}

/** Tokens of one prompt or one answer; far above any real one. */
export const lengthTokensMax = 2 ** 20;

/** Requests of one trace. */
export const arrivalsMax = 1_000_000;
