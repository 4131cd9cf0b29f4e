/** etcd behind the store port: the only file that knows the etcd3 client and its habits. */
import { ConsecutiveBreaker, circuitBreaker, ExponentialBackoff, handleWhen } from 'cockatiel';
import { Etcd3, type Lease as EtcdLease, type IOptions, isRecoverableError } from 'etcd3';
import type { Clock } from '../../proto/base/clock.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import type { Condition, Entry, Lease, Store, Transaction, WatchEvent, Write } from './store.ts';

const unaryDeadlineMs = 3_000;

/** We stop believing in a lease this share of its life after the last keepalive; etcd drops it after the whole. */
const leaseTrustShare = 0.7;

export interface EtcdStoreOptions {
  hosts: string[];
  clock: Clock;
}

function clientOptions({ hosts, clock }: EtcdStoreOptions): IOptions {
  return {
    hosts,
    // A deadline on a stream would end every watch with it.
    defaultCallOptions: (context) =>
      context.isStream ? {} : { deadline: clock.unixMs() + unaryDeadlineMs },
    grpcOptions: {
      // etcd answers more frequent pings than one in 5 s with GOAWAY.
      'grpc.keepalive_time_ms': 5_500,
      'grpc.keepalive_timeout_ms': 1_000,
      'grpc.initial_reconnect_backoff_ms': 200,
      'grpc.max_reconnect_backoff_ms': 1_000,
    },
    faultHandling: {
      host: () =>
        circuitBreaker(handleWhen(isRecoverableError), {
          halfOpenAfter: 500,
          breaker: new ConsecutiveBreaker(3),
        }),
      watchBackoff: new ExponentialBackoff({ maxDelay: 1_000 }).next(),
    },
  };
}

function unreachable(error: unknown): HelsError {
  const reason = error instanceof Error ? error.message : String(error);
  return new HelsError('unreachable', `etcd does not answer: ${reason}`, { cause: error });
}

export class EtcdStore implements Store {
  readonly #client: Etcd3;
  readonly #clock: Clock;

  constructor(options: EtcdStoreOptions) {
    this.#client = new Etcd3(clientOptions(options));
    this.#clock = options.clock;
  }

  async get(key: string): Promise<Entry | null> {
    const response = await this.#call(() => this.#client.get(key).exec());
    const found = response.kvs[0];
    return found === undefined ? null : entryOf(found);
  }

  async list(prefix: string): Promise<Entry[]> {
    const response = await this.#call(() =>
      this.#client.getAll().prefix(prefix).sort('Key', 'Ascend').exec(),
    );
    return response.kvs.map(entryOf);
  }

  async transact(conditions: readonly Condition[], writes: readonly Write[]): Promise<Transaction> {
    const operations = writes.map((write) => {
      if (write.type === 'delete') return this.#client.delete().key(write.key);
      const put = this.#client.put(write.key).value(write.value);
      return write.lease === undefined ? put : put.lease(write.lease.id);
    });
    const comparator = conditions.reduce(
      // A key that does not exist has mod revision 0.
      (chain, { key, revision }) => chain.and(key, 'Mod', '==', revision),
      this.#client.if('\0', 'Mod', '==', 0),
    );
    const result = await this.#call(() => comparator.then(...operations).commit());
    if (!result.succeeded) return { applied: false };
    return { applied: true, revision: Number(result.header.revision) };
  }

  async *watch(
    prefix: string,
    revision: number,
    signal: AbortSignal,
  ): AsyncGenerator<WatchEvent, void, undefined> {
    const queue: WatchEvent[] = [];
    let wake: (() => void) | null = null;
    let failure: Error | null = null;
    const watcher = await this.#call(() =>
      this.#client
        .watch()
        .prefix(prefix)
        .startRevision(String(revision + 1))
        .create(),
    );
    const notify = () => wake?.();
    watcher.on('put', (kv) => {
      queue.push({ type: 'put', entry: entryOf(kv) });
      notify();
    });
    watcher.on('delete', (kv) => {
      queue.push({ type: 'delete', key: kv.key.toString(), revision: Number(kv.mod_revision) });
      notify();
    });
    watcher.on('error', (error: Error) => {
      failure = error;
      notify();
    });
    signal.addEventListener('abort', notify, { once: true });
    try {
      while (!signal.aborted) {
        const event = queue.shift();
        if (event !== undefined) yield event;
        else if (failure !== null) throw unreachable(failure);
        else {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      }
    } finally {
      signal.removeEventListener('abort', notify);
      await watcher.cancel().catch(() => undefined);
    }
  }

  async grantLease(ttlMs: number): Promise<Lease> {
    const lease = this.#client.lease(Math.ceil(ttlMs / 1000));
    const id = await this.#call(() => lease.grant());
    return trusted(lease, id, ttlMs * leaseTrustShare, this.#clock);
  }

  async close(): Promise<void> {
    this.#client.close();
  }

  async #call<T>(run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      throw unreachable(error);
    }
  }
}

/** The client itself calls a lease lost only after twice its life; we trust our own monotonic clock, and less of it. */
function trusted(lease: EtcdLease, id: string, trustMs: number, clock: Clock): Lease {
  const lost = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const end = () => {
    clearTimeout(timer);
    if (!lost.signal.aborted) lost.abort();
  };
  const watchUntil = (untilMs: number) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      // After a stop of the whole process the timer is late, and the time is what counts.
      if (clock.nowMs() >= untilMs) end();
      else watchUntil(untilMs);
    }, untilMs - clock.nowMs());
  };
  const refresh = () => {
    if (!lost.signal.aborted) watchUntil(clock.nowMs() + trustMs);
  };
  lease.on('keepaliveSucceeded', refresh);
  lease.on('lost', end);
  refresh();
  return {
    id,
    lost: lost.signal,
    revoke: async () => {
      end();
      await lease.revoke().catch(() => undefined);
    },
  };
}

interface EtcdKeyValue {
  key: Buffer;
  value: Buffer;
  mod_revision: string;
}

function entryOf(kv: EtcdKeyValue): Entry {
  return { key: kv.key.toString(), value: kv.value.toString(), revision: Number(kv.mod_revision) };
}
