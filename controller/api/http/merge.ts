/** What one source gave, ended with or failed with. */
type Arrival<T> = { index: number } & ({ result: IteratorResult<T> } | { error: unknown });

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
  const running = new Set(iterators.keys());
  /** At most one of each source. */
  const arrived: Arrival<T>[] = [];
  let wake = () => {};
  const arrive = (arrival: Arrival<T>) => {
    arrived.push(arrival);
    wake();
  };
  // No race of them all: each would leave a reaction on every source that waits, for as long as it waits.
  const ask = (index: number) => {
    iterators[index]?.next().then(
      (result) => arrive({ index, result }),
      (error: unknown) => arrive({ index, error }),
    );
  };
  for (const index of running) ask(index);
  try {
    while (running.size > 0) {
      const arrival = arrived.shift();
      if (arrival === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      const { index } = arrival;
      if ('error' in arrival) throw arrival.error;
      if (arrival.result.done) {
        running.delete(index);
        continue;
      }
      ask(index);
      yield { index, item: arrival.result.value };
    }
  } finally {
    // Not awaited: an iterator that waits for its next item ends only when the signal it was given aborts.
    for (const index of running) iterators[index]?.return?.()?.catch(() => undefined);
  }
}
