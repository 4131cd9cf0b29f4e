/**
 * Items of several sources as they come, each with the number of its source. The first failure is thrown; then, and when the caller
 * leaves, the other sources are ended.
 */
export async function* merge<T>(
  sources: readonly AsyncIterable<T>[],
): AsyncGenerator<{ index: number; item: T }, void, undefined> {
  // Most answers have one choice: nothing to wait for side by side.
  const [only, ...others] = sources;
  if (only !== undefined && others.length === 0) {
    for await (const item of only) yield { index: 0, item };
    return;
  }
  const iterators = sources.map((source) => source[Symbol.asyncIterator]());
  const next = async (index: number) => ({ index, result: await iterators[index]?.next() });
  const pending = new Map(iterators.map((_, index) => [index, next(index)]));
  try {
    while (pending.size > 0) {
      const { index, result } = await Promise.race(pending.values());
      if (result === undefined || result.done) {
        pending.delete(index);
        continue;
      }
      pending.set(index, next(index));
      yield { index, item: result.value };
    }
  } finally {
    for (const waiting of pending.values()) waiting.catch(() => undefined);
    // Not awaited: an iterator that waits for its next item ends only when the signal it was given aborts.
    for (const index of pending.keys()) iterators[index]?.return?.()?.catch(() => undefined);
  }
}
