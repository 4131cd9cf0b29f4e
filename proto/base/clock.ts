/** Time as an argument: the only place that reads the clock. */
export interface Clock {
  /** Monotonic milliseconds; differences only. */
  nowMs(): number;
  /** Wall clock, milliseconds since 1970: for `created` fields and gRPC deadlines, never for differences. */
  unixMs(): number;
}

export const systemClock: Clock = {
  nowMs: () => performance.now(),
  unixMs: () => Date.now(),
};

/** Resolves after `ms`, or at once when the signal aborts. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const finish = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', finish);
      resolve();
    };
    const timer = setTimeout(finish, ms);
    signal?.addEventListener('abort', finish, { once: true });
  });
}
