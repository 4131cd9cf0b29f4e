/** Waits in tests have an end. Rejects naming `what` when `promise` takes longer than `deadlineMs`. */
export async function within<T>(deadlineMs: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${deadlineMs} ms`)), deadlineMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Asks every 50 ms until there is an answer: neither null nor false nor a throw. Rejects naming `what` and the last throw. */
export async function eventually<T>(
  deadlineMs: number,
  what: string,
  ask: () => T | null | false | Promise<T | null | false>,
): Promise<T> {
  const endMs = performance.now() + deadlineMs;
  let last: unknown = null;
  while (performance.now() < endMs) {
    try {
      const answer = await ask();
      if (answer !== null && answer !== false) return answer;
      last = null;
    } catch (error) {
      last = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${what}: not within ${deadlineMs} ms${last === null ? '' : ` (${last})`}`);
}

export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) =>
    signal.addEventListener('abort', () => resolve(), { once: true }),
  );
}
