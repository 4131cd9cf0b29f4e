/** Leaderships that end where nobody listens yet. */
import { expect, it, vi } from 'vitest';
import { keys } from '../../../controller/store/keys.ts';
import { campaign } from '../../../controller/store/leadership.ts';
import { MemoryStore } from '../../../controller/store/memory-store.ts';
import type { Condition, Write } from '../../../controller/store/store.ts';
import { HelsError } from '../../../proto/domain/errors.ts';

const never = new AbortController().signal;
const put: Write = { type: 'put', key: '/a', value: '' };

/** Trust in so many leases is over before the answer to the election is read, as in a process that stood still meanwhile. */
class SlowElections extends MemoryStore {
  readonly revoked: string[] = [];
  #slow: number;
  #ending: AbortController | null = null;

  constructor(slow: number) {
    super();
    this.#slow = slow;
  }

  override async grantLease(ttlMs: number) {
    const lease = await super.grantLease(ttlMs);
    const ending = new AbortController();
    this.#ending = ending;
    const revoke = async () => {
      this.revoked.push(lease.id);
      ending.abort();
      await lease.revoke();
    };
    return { ...lease, lost: ending.signal, revoke };
  }

  override async transact(conditions: readonly Condition[], writes: readonly Write[]) {
    const result = await super.transact(conditions, writes);
    if (this.#slow > 0) {
      this.#slow -= 1;
      this.#ending?.abort();
    }
    return result;
  }
}

it('does not lead with a lease that was over before the answer to the election was read', async () => {
  const store = new SlowElections(2);
  const leadership = await campaign(store, 'a', never);
  expect([store.revoked.length, leadership.lost.aborted]).toEqual([2, false]);
  expect(leadership.succeeds).toBe(false);
  expect(await store.get(keys.election)).toMatchObject({ revision: leadership.term });
});

it('is lost when a write of it finds that another one leads', async () => {
  const store = new MemoryStore();
  const leadership = await campaign(store, 'a', never);
  const heard = vi.fn();
  leadership.lost.addEventListener('abort', heard);
  expect(await leadership.write([{ key: '/a', revision: 9 }], [put])).toBe(false);
  expect(heard).not.toHaveBeenCalled();
  await store.transact([], [{ type: 'put', key: keys.election, value: 'b' }]);
  await expect(leadership.write([], [put])).rejects.toMatchObject({ code: 'stale-fence' });
  expect(heard).toHaveBeenCalledOnce();
  expect(leadership.lost.reason.message).toMatch(/^term \d+ no longer leads/);
});

it('is lost when the store itself says so, and not when the store does not answer', async () => {
  const store = new MemoryStore();
  const leadership = await campaign(store, 'a', never);
  const transact = vi.spyOn(store, 'transact');
  transact.mockRejectedValueOnce(new HelsError('unreachable', 'away'));
  await expect(leadership.write([], [put])).rejects.toMatchObject({ code: 'unreachable' });
  expect(leadership.lost.aborted).toBe(false);
  transact.mockRejectedValueOnce(new HelsError('stale-fence', 'taken over'));
  await expect(leadership.write([], [put])).rejects.toMatchObject({ code: 'stale-fence' });
  expect(leadership.lost.reason).toMatchObject({ message: 'taken over' });
});
