/** Keys, revisions and history in memory: what the memory store is and what the file store keeps a log of. No I/O. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { Condition, Entry, WatchEvent } from './store.ts';

export type Change =
  | { key: string; value: string; leaseId: string | null }
  | { key: string; value: null };

/** Changes that a watch can still start from. */
const historyMax = 10_000;
/** Of their keys and values together: plans of many devices are large, and the count alone would keep thousands of them. */
const historyCharactersMax = 8 * 2 ** 20;

export class KeyValueState {
  readonly #entries = new Map<string, Entry & { leaseId: string | null }>();
  #history: WatchEvent[] = [];
  #historyCharacters = 0;
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

  /** What stays when its holder ends; the oldest first. */
  lasting(): Entry[] {
    const lasting = [...this.#entries.values()].filter(({ leaseId }) => leaseId === null);
    return lasting.sort((left, right) => left.revision - right.revision);
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
    this.#trimHistory();
    return this.#revision;
  }

  /** The last transaction stays whatever its size: watches are about to read it. */
  #trimHistory(): void {
    let surplus = 0;
    for (const event of this.#history) {
      const tooMuch =
        this.#history.length - surplus > historyMax ||
        this.#historyCharacters > historyCharactersMax;
      if (!tooMuch || revisionOf(event) === this.#revision) break;
      this.#historyCharacters -= charactersOf(event);
      this.#historyFrom = revisionOf(event);
      surplus += 1;
    }
    this.#history.splice(0, surplus);
  }

  #remember(event: WatchEvent): void {
    this.#history.push(event);
    this.#historyCharacters += charactersOf(event);
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
      if (this.#entries.delete(key)) this.#remember({ type: 'delete', key, revision });
      return;
    }
    this.#entries.set(key, { key, value, revision, leaseId: change.leaseId });
    this.#remember({ type: 'put', entry: { key, value, revision } });
  }
}

export function revisionOf(event: WatchEvent): number {
  return event.type === 'put' ? event.entry.revision : event.revision;
}

function charactersOf(event: WatchEvent): number {
  return event.type === 'put'
    ? event.entry.key.length + event.entry.value.length
    : event.key.length;
}

function keyOf(event: WatchEvent): string {
  return event.type === 'put' ? event.entry.key : event.key;
}
