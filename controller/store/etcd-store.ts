/** etcd behind the store port: the only file that knows the etcd3 client and its habits. */
import { rootCertificates } from 'node:tls';
import { ConsecutiveBreaker, circuitBreaker, ExponentialBackoff, handleWhen } from 'cockatiel';
import {
  Etcd3,
  type Lease as EtcdLease,
  EtcdLeaseInvalidError,
  type IOptions,
  isRecoverableError,
} from 'etcd3';
import type { Clock } from '../../proto/base/clock.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import { connectionFailureOf } from '../../proto/rpc/connection-failure.ts';
import { noProxy } from '../../proto/rpc/definitions.ts';
import { checkKey, checkLeaseTtl, checkRevision, checkTransaction } from './bounds.ts';
import { entryOf, watchEtcd } from './etcd-watch.ts';
import { LeaseTrust } from './lease-trust.ts';
import type { Condition, Entry, Lease, Store, Transaction, WatchEvent, Write } from './store.ts';

const unaryDeadlineMs = 3_000;

/** PEM, for hosts with https. */
export interface EtcdTls {
  /** null: the authorities that Node.js trusts. */
  authority: Buffer | null;
  /** What we show to etcd; null: nothing. */
  client: { certificate: Buffer; key: Buffer } | null;
}

export interface EtcdStoreOptions {
  hosts: string[];
  clock: Clock;
  tls?: EtcdTls;
}

function credentialsOf(tls: EtcdTls): NonNullable<IOptions['credentials']> {
  const { authority, client } = tls;
  const rootCertificate = authority ?? Buffer.from(rootCertificates.join('\n'));
  return client === null
    ? { rootCertificate }
    : { rootCertificate, privateKey: client.key, certChain: client.certificate };
}

function clientOptions({ hosts, clock, tls }: EtcdStoreOptions): IOptions {
  const secure = tls !== undefined && hosts.some((host) => host.startsWith('https:'));
  return {
    hosts,
    ...(secure ? { credentials: credentialsOf(tls) } : {}),
    // A deadline on a stream would end every watch with it.
    defaultCallOptions: (context) =>
      context.isStream ? {} : { deadline: clock.unixMs() + unaryDeadlineMs },
    grpcOptions: {
      ...noProxy,
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

function toStoreError(error: unknown): HelsError {
  const reason = error instanceof Error ? error.message : String(error);
  if (error instanceof EtcdLeaseInvalidError) {
    return new HelsError('stale-fence', `the lease is over; grant a new one (${reason})`, {
      cause: error,
    });
  }
  const failure = connectionFailureOf(reason);
  if (failure.byTls) {
    const message = `no TLS connection to etcd: ${failure.reason}; see --etcd-ca, --etcd-cert and --etcd-key`;
    return new HelsError('denied', message, { cause: error });
  }
  return new HelsError('unreachable', `etcd does not answer: ${failure.reason}`, { cause: error });
}

export class EtcdStore implements Store {
  readonly #client: Etcd3;
  readonly #clock: Clock;
  readonly #closing = new AbortController();

  constructor(options: EtcdStoreOptions) {
    this.#client = new Etcd3(clientOptions(options));
    this.#clock = options.clock;
  }

  async get(key: string): Promise<Entry | null> {
    checkKey(key, 'key');
    const response = await this.#call(() => this.#client.get(key).exec());
    const found = response.kvs[0];
    return found === undefined ? null : entryOf(found);
  }

  async list(prefix: string): Promise<Entry[]> {
    checkKey(prefix, 'prefix');
    const response = await this.#call(() =>
      this.#client.getAll().prefix(prefix).sort('Key', 'Ascend').exec(),
    );
    return response.kvs.map(entryOf);
  }

  async transact(conditions: readonly Condition[], writes: readonly Write[]): Promise<Transaction> {
    checkTransaction(conditions, writes);
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
    checkKey(prefix, 'prefix');
    checkRevision(revision);
    const ending = AbortSignal.any([signal, this.#closing.signal]);
    yield* watchEtcd(this.#client, prefix, revision, ending);
  }

  async grantLease(ttlMs: number): Promise<Lease> {
    checkLeaseTtl(ttlMs);
    const ttlSeconds = Math.ceil(ttlMs / 1000);
    const sentMs = this.#clock.nowMs();
    const lease = this.#client.lease(ttlSeconds);
    const trusted = new TrustedLease(lease, new LeaseTrust(ttlSeconds * 1000, this.#clock, sentMs));
    this.#closing.signal.addEventListener('abort', () => trusted.end('the store is closed'), {
      once: true,
    });
    return trusted.granted(await this.#call(() => lease.grant()));
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort();
    this.#client.close();
  }

  async #call<T>(run: () => Promise<T>): Promise<T> {
    if (this.#closing.signal.aborted) throw new HelsError('unreachable', 'the store is closed');
    try {
      return await run();
    } catch (error) {
      throw toStoreError(error);
    }
  }
}

/**
 * The client itself calls a lease lost only after twice its life and by the wall clock; this one is lost when our trust in it ends. Then
 * it is kept alive no longer, so that the keys under it go and somebody else can take over.
 */
class TrustedLease {
  readonly #lease: EtcdLease;
  readonly #trust: LeaseTrust;
  readonly #lost = new AbortController();
  #timer: NodeJS.Timeout | undefined;

  constructor(lease: EtcdLease, trust: LeaseTrust) {
    this.#lease = lease;
    this.#trust = trust;
    lease.on('keepaliveEstablished', () => trust.streamOpened());
    lease.on('keepaliveFired', () => trust.keepaliveSent());
    lease.on('keepaliveSucceeded', () => {
      trust.keepaliveAnswered();
      this.#watch();
    });
    // The client may tell it twice.
    lease.on('lost', () => this.end('etcd has ended it'));
    this.#watch();
  }

  granted(id: string): Lease {
    return {
      id,
      lost: this.#lost.signal,
      revoke: async () => {
        this.end('it was given back');
        await this.#lease.revoke().catch(() => undefined);
      },
    };
  }

  /** After a stop of the whole process the timer is late, and the time is what counts. */
  #watch(): void {
    clearTimeout(this.#timer);
    if (this.#lost.signal.aborted) return;
    if (this.#trust.isOver) this.end('etcd has not renewed it in time');
    else this.#timer = setTimeout(() => this.#watch(), Math.ceil(this.#trust.remainingMs));
  }

  /** Idempotent. */
  end(why: string): void {
    clearTimeout(this.#timer);
    if (this.#lost.signal.aborted) return;
    this.#lease.release();
    this.#lost.abort(new HelsError('stale-fence', `the lease is over: ${why}`));
  }
}
