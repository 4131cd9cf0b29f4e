/**
 * A watch over etcd that loses and repeats nothing. The client resumes a broken watch by the revision in the header of the last answer,
 * which may be ahead of the events delivered; so a broken watch is given up here, and a new one starts after the last event.
 */
import type { Etcd3, IKeyValue, IWatchResponse, Watcher } from 'etcd3';
import { sleep } from '../../proto/base/clock.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import type { Entry, WatchEvent } from './store.ts';

/** Between a broken watch and the next attempt. */
const retryDelayMs = 200;

export function entryOf(kv: Pick<IKeyValue, 'key' | 'value' | 'mod_revision'>): Entry {
  return { key: kv.key.toString(), value: kv.value.toString(), revision: Number(kv.mod_revision) };
}

/** Ends when the signal aborts; throws `internal` when etcd no longer has the changes after `revision`. */
export async function* watchEtcd(
  client: Etcd3,
  prefix: string,
  revision: number,
  signal: AbortSignal,
): AsyncGenerator<WatchEvent, void, undefined> {
  let after = revision;
  while (!signal.aborted) {
    const connection = new WatchConnection(client, prefix, after, signal);
    try {
      yield* connection.events();
    } finally {
      connection.close();
      after = connection.deliveredRevision;
    }
    await sleep(retryDelayMs, signal);
  }
}

class WatchConnection {
  /** Every change up to this revision has been queued. */
  deliveredRevision: number;
  readonly #watcher: Watcher;
  readonly #signal: AbortSignal;
  readonly #queue: WatchEvent[] = [];
  #wake: (() => void) | null = null;
  #broken = false;
  #refusal: Error | null = null;

  constructor(client: Etcd3, prefix: string, after: number, signal: AbortSignal) {
    this.deliveredRevision = after;
    this.#signal = signal;
    const builder = client.watch().prefix(prefix);
    this.#watcher = builder.startRevision(String(after + 1)).watcher();
    this.#watcher.on('data', (response) => this.#receive(response));
    this.#watcher.on('disconnected', () => {
      this.#broken = true;
      this.#notify();
    });
    this.#watcher.on('error', (error: Error) => {
      this.#refusal = error;
      this.#notify();
    });
  }

  /** Until the connection breaks or the signal aborts. What was received before is handed out first. */
  async *events(): AsyncGenerator<WatchEvent, void, undefined> {
    const notify = () => this.#notify();
    this.#signal.addEventListener('abort', notify, { once: true });
    try {
      while (!this.#signal.aborted) {
        const event = this.#queue.shift();
        if (event !== undefined) yield event;
        else if (this.#refusal !== null) throw this.#tooOld(this.#refusal);
        else if (this.#broken) return;
        else {
          await new Promise<void>((resolve) => {
            this.#wake = resolve;
          });
        }
      }
    } finally {
      this.#signal.removeEventListener('abort', notify);
    }
  }

  close(): void {
    // Waiting for etcd to confirm could take as long as etcd is away.
    this.#watcher.cancel().catch(() => undefined);
  }

  #receive({ events, header }: IWatchResponse): void {
    if (this.#broken) return;
    for (const { type, kv } of events) {
      const entry = entryOf(kv);
      // The client hands the enumeration out by name; its types say number.
      if (String(type).toLowerCase() === 'put') this.#queue.push({ type: 'put', entry });
      else this.#queue.push({ type: 'delete', key: entry.key, revision: entry.revision });
      this.deliveredRevision = entry.revision;
    }
    // An answer without events is a progress notice: everything up to its revision has been sent.
    if (events.length === 0) {
      this.deliveredRevision = Math.max(this.deliveredRevision, Number(header.revision));
    }
    this.#notify();
  }

  #notify(): void {
    this.#wake?.();
  }

  #tooOld(error: Error): HelsError {
    const message = `etcd refuses a watch from revision ${this.deliveredRevision}, which may be too old: ${error.message}`;
    return new HelsError('internal', message, { cause: error });
  }
}
