/** Short forms of what tests do with a store. */
import type { Store, WatchEvent, Write } from '../../controller/store/store.ts';
import { within } from './deadline.ts';

const waitMs = 15_000;

export const put = (key: string, value: string): Write => ({ type: 'put', key, value });
export const remove = (key: string): Write => ({ type: 'delete', key });

export async function write(store: Store, ...writes: Write[]): Promise<number> {
  const result = await store.transact([], writes);
  if (!result.applied) throw new Error('a write without conditions was not applied');
  return result.revision;
}

/** The first `count` events of a watch, then the watch is left. */
export async function take(
  store: Store,
  prefix: string,
  revision: number,
  count: number,
): Promise<WatchEvent[]> {
  const events: WatchEvent[] = [];
  const abort = new AbortController();
  const read = async () => {
    for await (const event of store.watch(prefix, revision, abort.signal)) {
      events.push(event);
      if (events.length === count) return;
    }
  };
  try {
    await within(waitMs, `${count} events under ${prefix} (got ${events.length})`, read());
  } finally {
    abort.abort();
  }
  return events;
}
