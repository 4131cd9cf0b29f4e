/** The state that outlives a process: one port, three adapters (memory, embedded file, etcd), one contract suite for all. */

export interface Entry {
  key: string;
  value: string;
  /** Store revision of the last write to this key; revisions of one store only grow. */
  revision: number;
}

/** Holds when the key's revision is this; 0 = the key does not exist. */
export interface Condition {
  key: string;
  revision: number;
}

export type Write =
  | { type: 'put'; key: string; value: string; lease?: Lease }
  | { type: 'delete'; key: string };

export type Transaction =
  | { applied: true; revision: number }
  /** A condition did not hold: nothing was written. */
  | { applied: false };

export type WatchEvent =
  | { type: 'put'; entry: Entry }
  | { type: 'delete'; key: string; revision: number };

/** A claim that ends unless it is kept alive; keys put under it end with it. */
export interface Lease {
  readonly id: string;
  /** Aborts, with why, when the lease may be over: by our own clock and before the store lets it go. Idempotent for those who listen. */
  readonly lost: AbortSignal;
  revoke(): Promise<void>;
}

export interface Store {
  get(key: string): Promise<Entry | null>;
  /** In the order of keys. */
  list(prefix: string): Promise<Entry[]>;
  /** Atomic: all conditions hold and all writes happen, or nothing does. */
  transact(conditions: readonly Condition[], writes: readonly Write[]): Promise<Transaction>;
  /** Every change under the prefix after `revision`, in order, none lost or repeated, until the signal aborts. */
  watch(prefix: string, revision: number, signal: AbortSignal): AsyncIterable<WatchEvent>;
  /** Kept alive by the adapter until revoked or lost. */
  grantLease(ttlMs: number): Promise<Lease>;
  close(): Promise<void>;
}
