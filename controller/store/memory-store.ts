import { randomUUID } from 'node:crypto';
import { HelsError } from '../../proto/domain/errors.ts';
import { checkKey, checkLeaseTtl, checkRevision, checkTransaction } from './bounds.ts';
import { type Change, KeyValueState, revisionOf } from './key-value-state.ts';
import type { Condition, Entry, Lease, Store, Transaction, WatchEvent, Write } from './store.ts';

/**
 * A store within one process. Its leases are those of this process: they live until revoked or until the store closes, since the
 * holder and the store cannot lose sight of each other. The file store is this one with a log.
 */
export class MemoryStore implements Store {
  protected readonly state: KeyValueState;
  readonly #watchers = new Set<() => void>();
  readonly #leases = new Map<string, AbortController>();
  #closed = false;

  constructor(state = new KeyValueState()) {
    this.state = state;
  }

  async get(key: string): Promise<Entry | null> {
    this.#checkOpen();
    checkKey(key, 'key');
    return this.state.get(key);
  }

  async list(prefix: string): Promise<Entry[]> {
    this.#checkOpen();
    checkKey(prefix, 'prefix');
    return this.state.list(prefix);
  }

  async transact(conditions: readonly Condition[], writes: readonly Write[]): Promise<Transaction> {
    this.#checkOpen();
    checkTransaction(conditions, writes);
    if (!this.state.holds(conditions)) return { applied: false };
    const changes = writes.map((write): Change => {
      if (write.type === 'delete') return { key: write.key, value: null };
      return { key: write.key, value: write.value, leaseId: this.#liveLease(write.lease) };
    });
    return { applied: true, revision: this.#commit(changes) };
  }

  async *watch(
    prefix: string,
    revision: number,
    signal: AbortSignal,
  ): AsyncGenerator<WatchEvent, void, undefined> {
    checkKey(prefix, 'prefix');
    checkRevision(revision);
    let last = revision;
    while (!signal.aborted && !this.#closed) {
      const events = this.state.since(last, prefix);
      for (const event of events) {
        if (signal.aborted) return;
        yield event;
        last = revisionOf(event);
      }
      if (events.length === 0) await this.#change(signal);
    }
  }

  async grantLease(ttlMs: number): Promise<Lease> {
    this.#checkOpen();
    checkLeaseTtl(ttlMs);
    const id = randomUUID();
    const lost = new AbortController();
    this.#leases.set(id, lost);
    return {
      id,
      lost: lost.signal,
      revoke: async () => {
        if (!this.#leases.delete(id)) return;
        const changes = this.state.keysOfLease(id).map((key) => ({ key, value: null }));
        if (changes.length > 0) this.#commit(changes);
        lost.abort(new HelsError('stale-fence', 'the lease was given back'));
      },
    };
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.endLeases(new HelsError('stale-fence', 'the store is closed'));
    this.#wake();
  }

  /** Their holders learn that they hold nothing any more. */
  protected endLeases(why: HelsError): void {
    for (const lost of this.#leases.values()) lost.abort(why);
  }

  /** Called before the changes are visible; throwing keeps them from happening. */
  protected record(_revision: number, _changes: readonly Change[]): void {}

  #commit(changes: readonly Change[]): number {
    this.record(this.state.revision + 1, changes);
    const revision = this.state.apply(changes);
    this.#wake();
    return revision;
  }

  #liveLease(lease: Lease | undefined): string | null {
    if (lease === undefined) return null;
    if (!this.#leases.has(lease.id)) {
      throw new HelsError('stale-fence', `lease ${lease.id} is over; grant a new one`);
    }
    return lease.id;
  }

  #checkOpen(): void {
    if (this.#closed) throw new HelsError('unreachable', 'the store is closed');
  }

  #wake(): void {
    for (const wake of [...this.#watchers]) wake();
  }

  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const finish = () => {
        this.#watchers.delete(finish);
        signal.removeEventListener('abort', finish);
        resolve();
      };
      this.#watchers.add(finish);
      signal.addEventListener('abort', finish, { once: true });
    });
  }
}
