/** Keys, revisions and history in memory: what the memory store is and what the file store keeps a log of. No I/O. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { Condition, Entry, WatchEvent } from './store.ts';

export type Change =
  | { key: string; value: string; leaseId: string | null }
  | { key: string; value: null };

/** Changes that a watch can still start from. */
const historyMax = 10_000;

export class KeyValueState {
  readonly #entries = new Map<string, Entry & { leaseId: string | null }>();
  #history: WatchEvent[] = [];
  #revision: number;
  /** Oldest revision whose successors are all in the history. */
  #historyFrom: number;

  constructor(revision = 0) {
    this.#revision = revision;
    this.#historyFrom = revision;
  }

  get revision(): number {
    return this.#revision;
  }

  get(key: string): Entry | null {
    const found = this.#entries.get(key);
    return found === undefined ? null : { key, value: found.value, revision: found.revision };
  }

  list(prefix: string): Entry[] {
    return [...this.#entries.keys()]
      .filter((key) => key.startsWith(prefix))
      .sort()
      .flatMap((key) => this.get(key) ?? []);
  }

  keysOfLease(leaseId: string): string[] {
    return [...this.#entries.values()]
      .filter((entry) => entry.leaseId === leaseId)
      .map(({ key }) => key);
  }

  holds(conditions: readonly Condition[]): boolean {
    return conditions.every(
      ({ key, revision }) => (this.#entries.get(key)?.revision ?? 0) === revision,
    );
  }

  /** One revision for all changes of a transaction, as etcd counts. Returns it. */
  apply(changes: readonly Change[]): number {
    this.#revision += 1;
    for (const change of changes) this.#applyOne(change, this.#revision);
    if (this.#history.length > historyMax) {
      const dropped = this.#history.splice(0, this.#history.length - historyMax);
      const last = dropped.at(-1);
      if (last !== undefined) this.#historyFrom = revisionOf(last);
    }
    return this.#revision;
  }

  /** Events after `revision`; throws when they are no longer all known. */
  since(revision: number, prefix: string): WatchEvent[] {
    if (revision < this.#historyFrom) {
      throw new HelsError(
        'internal',
        `a watch from revision ${revision} is too old; the history starts at ${this.#historyFrom}`,
      );
    }
    return this.#history.filter(
      (event) => revisionOf(event) > revision && keyOf(event).startsWith(prefix),
    );
  }

  #applyOne(change: Change, revision: number): void {
    const { key, value } = change;
    if (value === null) {
      if (this.#entries.delete(key)) this.#history.push({ type: 'delete', key, revision });
      return;
    }
    this.#entries.set(key, { key, value, revision, leaseId: change.leaseId });
    this.#history.push({ type: 'put', entry: { key, value, revision } });
  }
}

export function revisionOf(event: WatchEvent): number {
  return event.type === 'put' ? event.entry.revision : event.revision;
}

function keyOf(event: WatchEvent): string {
  return event.type === 'put' ? event.entry.key : event.key;
}
