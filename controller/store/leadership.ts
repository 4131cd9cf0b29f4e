/** One controller leads at a time. Its term is the revision of the election key; every write it makes is fenced by it. */
import { HelsError } from '../../proto/domain/errors.ts';
import { keys } from './keys.ts';
import type { Condition, Lease, Store, Write } from './store.ts';

export interface Leadership {
  /** Grows with every leader; workers refuse an older one. */
  readonly term: number;
  /** Another controller led until now. */
  readonly succeeds: boolean;
  /** Aborts, with why, when the leadership may be over, or a write has found that it is; stop deciding at once. */
  readonly lost: AbortSignal;
  /** Writes only while this term leads; throws stale-fence otherwise. False: a condition of the caller's did not hold. */
  write(conditions: readonly Condition[], writes: readonly Write[]): Promise<boolean>;
  resign(): Promise<void>;
}

const leaseTtlMs = 5_000;

/**
 * Waits until this process leads, or throws when the signal aborts. `name` is for people who look at the key; `waiting` is told that of
 * who leads meanwhile.
 */
export async function campaign(
  store: Store,
  name: string,
  signal: AbortSignal,
  waiting: (leader: string) => void = () => undefined,
): Promise<Leadership> {
  let succeeds = false;
  for (;;) {
    signal.throwIfAborted();
    const lease = await store.grantLease(leaseTtlMs);
    const won = await store.transact(
      [{ key: keys.election, revision: 0 }],
      [{ type: 'put', key: keys.election, value: name, lease }],
    );
    if (won.applied && !lease.lost.aborted) {
      return leadershipOf(store, won.revision, lease, succeeds);
    }
    await lease.revoke();
    // Over before the answer was read: nobody would hear of that any more.
    if (won.applied) continue;
    await untilFree(store, signal, waiting);
    succeeds = true;
  }
}

async function untilFree(
  store: Store,
  signal: AbortSignal,
  waiting: (leader: string) => void,
): Promise<void> {
  const held = await store.get(keys.election);
  if (held === null) return;
  waiting(held.value);
  for await (const event of store.watch(keys.election, held.revision, signal)) {
    if (event.type === 'delete') return;
  }
}

function leadershipOf(store: Store, term: number, lease: Lease, succeeds: boolean): Leadership {
  const lost = new AbortController();
  lease.lost.addEventListener('abort', () => lost.abort(lease.lost.reason), { once: true });
  return {
    term,
    succeeds,
    lost: lost.signal,
    async write(conditions, writes) {
      try {
        return await writeFenced(store, term, conditions, writes);
      } catch (error) {
        if (error instanceof HelsError && error.code === 'stale-fence') lost.abort(error);
        throw error;
      }
    },
    resign: () => lease.revoke(),
  };
}

async function writeFenced(
  store: Store,
  term: number,
  conditions: readonly Condition[],
  writes: readonly Write[],
): Promise<boolean> {
  const fence = { key: keys.election, revision: term };
  const result = await store.transact([fence, ...conditions], writes);
  if (result.applied) return true;
  const current = await store.get(keys.election);
  if (current?.revision === term) return false;
  throw new HelsError(
    'stale-fence',
    `term ${term} no longer leads; the election key has revision ${current?.revision ?? 0}`,
  );
}
