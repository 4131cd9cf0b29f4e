/** What every store keeps to, whatever it is made of. Run by one small file per adapter. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { storeBounds } from '../../controller/store/bounds.ts';
import { campaign } from '../../controller/store/leadership.ts';
import type { Store, WatchEvent, Write } from '../../controller/store/store.ts';
import { aborted, within } from '../support/deadline.ts';
import { put, remove, take, write } from '../support/store-access.ts';
import { storeInputContract } from './store-input.contract.ts';

export interface StoreHarness {
  setUp?(): Promise<void>;
  tearDown?(): Promise<void>;
  /** A store in which nobody wrote under `/<name>/` yet. */
  open(): Promise<Store>;
  /** The holder is gone without a word; a store on the same data. null: the data end with the process. */
  reopen: ((store: Store) => Promise<Store>) | null;
  /** A second store on the same data beside the first; null: one at a time. */
  openBeside: (() => Promise<Store>) | null;
  /** Resolves when a lease that nobody keeps alive has run out after so long; null: leases run out with the process alone. */
  leaseRunsOut: ((ttlMs: number) => Promise<void>) | null;
}

const waitMs = 15_000;
const ttlMs = storeBounds.leaseTtlMsMin;

export function storeContract(name: string, harness: StoreHarness): void {
  describe(`${name} store`, () => {
    const opened: Store[] = [];
    let folders = 0;
    let at = '';

    const open = async () => {
      folders += 1;
      at = `/test-${folders}/`;
      const store = await harness.open();
      opened.push(store);
      return store;
    };
    const also = async (store: Promise<Store>) => {
      opened.push(await store);
      return await store;
    };

    beforeAll(async () => {
      await harness.setUp?.();
    });
    afterEach(async () => {
      for (const store of opened.splice(0)) await store.close();
    });
    afterAll(async () => {
      await harness.tearDown?.();
    });

    describe('keys', () => {
      it('gives what was put, with a revision that grows', async () => {
        const store = await open();
        const first = await write(store, put(`${at}a`, 'one'));
        expect(await store.get(`${at}a`)).toEqual({ key: `${at}a`, value: 'one', revision: first });
        const second = await write(store, put(`${at}a`, 'zwei ✓'));
        expect(second).toBeGreaterThan(first);
        expect(await store.get(`${at}a`)).toMatchObject({ value: 'zwei ✓', revision: second });
      });

      it('has null for a key that does not exist and keeps an empty value', async () => {
        const store = await open();
        await write(store, put(`${at}empty`, ''));
        expect(await store.get(`${at}none`)).toBeNull();
        expect(await store.get(`${at}empty`)).toMatchObject({ value: '' });
        await write(store, remove(`${at}empty`));
        expect(await store.get(`${at}empty`)).toBeNull();
      });

      it('lists a prefix in the order of keys and nothing beside it', async () => {
        const store = await open();
        await write(store, put(`${at}b/2`, '2'), put(`${at}b/10`, '10'), put(`${at}bc`, 'beside'));
        await write(store, put(`${at}b/1`, '1'));
        const listed = await store.list(`${at}b/`);
        expect(listed.map(({ key }) => key.slice(at.length))).toEqual(['b/1', 'b/10', 'b/2']);
      });
    });

    describe('compare and swap', () => {
      it('writes only when every condition holds, and then everything at one revision', async () => {
        const store = await open();
        const revision = await write(store, put(`${at}a`, '1'));
        const missed = await store.transact(
          [
            { key: `${at}a`, revision },
            { key: `${at}b`, revision: 1 },
          ],
          [put(`${at}a`, '2'), put(`${at}b`, '2')],
        );
        expect(missed).toEqual({ applied: false });
        expect(await store.get(`${at}a`)).toMatchObject({ value: '1', revision });
        expect(await store.get(`${at}b`)).toBeNull();

        const applied = await store.transact(
          [
            { key: `${at}a`, revision },
            { key: `${at}b`, revision: 0 },
          ],
          [put(`${at}b`, '2'), remove(`${at}a`)],
        );
        expect(applied).toMatchObject({ applied: true });
        expect(await store.get(`${at}a`)).toBeNull();
        expect((await store.get(`${at}b`))?.revision).toBe(applied.applied && applied.revision);
      });

      it('does not take a key that was deleted and made again for the old one', async () => {
        const store = await open();
        const revision = await write(store, put(`${at}a`, 'same'));
        await write(store, remove(`${at}a`));
        await write(store, put(`${at}a`, 'same'));
        const late = await store.transact([{ key: `${at}a`, revision }], [put(`${at}a`, 'late')]);
        expect(late.applied).toBe(false);
      });

      it('lets exactly one of many win, and loses no increment', async () => {
        const store = await open();
        const others = harness.openBeside === null ? store : await also(harness.openBeside());
        const increment = async (via: Store) => {
          for (;;) {
            const held = await via.get(`${at}count`);
            const value = String(Number(held?.value ?? 0) + 1);
            const result = await via.transact(
              [{ key: `${at}count`, revision: held?.revision ?? 0 }],
              [put(`${at}count`, value)],
            );
            if (result.applied) return;
          }
        };
        await Promise.all(Array.from({ length: 12 }, (_, i) => increment(i % 2 ? store : others)));
        expect(await store.get(`${at}count`)).toMatchObject({ value: '12' });
      });
    });

    describe('watch', () => {
      it('tells what happened before it began and what happens while it runs, in order, once', async () => {
        const store = await open();
        const from = await write(store, put(`${at}w/0`, 'before the watch'));
        await write(store, put(`${at}w/1`, 'a'), put(`${at}w/2`, 'b'));
        const watching = take(store, `${at}w/`, from, 23);
        await write(store, put(`${at}elsewhere`, 'x'));
        for (let i = 0; i < 20; i += 1) await write(store, put(`${at}w/1`, String(i)));
        const last = await write(store, remove(`${at}w/2`));
        const events = await watching;
        expect(events[0]).toMatchObject({ type: 'put', entry: { key: `${at}w/1`, value: 'a' } });
        expect(events[1]).toMatchObject({ type: 'put', entry: { key: `${at}w/2`, value: 'b' } });
        expect(
          events.slice(2, 22).map((event) => event.type === 'put' && event.entry.value),
        ).toEqual(Array.from({ length: 20 }, (_, i) => String(i)));
        expect(events[22]).toEqual({ type: 'delete', key: `${at}w/2`, revision: last });
      });

      it('gives the same story to a reader who stops and goes on from the last revision', async () => {
        const store = await open();
        const from = await write(store, put(`${at}w/0`, ''));
        for (let i = 0; i < 9; i += 1) await write(store, put(`${at}w/${i % 3}`, String(i)));
        const whole = await take(store, `${at}w/`, from, 9);
        const revisions = whole.map((e) => (e.type === 'put' ? e.entry.revision : e.revision));
        const first = await take(store, `${at}w/`, from, 4);
        const rest = await take(store, `${at}w/`, revisions[3] ?? 0, 5);
        expect([...first, ...rest]).toEqual(whole);
      });

      it('ends when its signal aborts, before or during, and when the store closes', async () => {
        const store = await open();
        const revision = await write(store, put(`${at}w`, ''));
        const read = async (signal: AbortSignal) => {
          const events: WatchEvent[] = [];
          for await (const event of store.watch(at, revision, signal)) events.push(event);
          return events;
        };
        expect(await within(waitMs, 'aborted before', read(AbortSignal.abort()))).toEqual([]);
        const abort = new AbortController();
        const during = read(abort.signal);
        setTimeout(() => abort.abort(), 50);
        expect(await within(waitMs, 'aborted during', during)).toEqual([]);
        const closing = read(new AbortController().signal);
        setTimeout(() => void store.close(), 50);
        expect(await within(waitMs, 'store closed', closing)).toEqual([]);
      });
    });

    describe('leases', () => {
      it('keep their keys until revoked, and then take them along', async () => {
        const store = await open();
        const lease = await store.grantLease(ttlMs);
        const from = await write(store, { ...put(`${at}l`, 'held'), lease } as Write);
        await harness.leaseRunsOut?.(ttlMs);
        expect(await store.get(`${at}l`)).toMatchObject({ value: 'held' });
        expect(lease.lost.aborted).toBe(false);
        const deleted = take(store, `${at}l`, from, 1);
        await lease.revoke();
        expect((await deleted)[0]).toMatchObject({ type: 'delete', key: `${at}l` });
        expect(lease.lost.aborted).toBe(true);
        await lease.revoke();
      });

      it('refuse new keys once they are over', async () => {
        const store = await open();
        const lease = await store.grantLease(ttlMs);
        await lease.revoke();
        await expect(
          store.transact([], [{ type: 'put', key: `${at}l`, value: '', lease }]),
        ).rejects.toMatchObject({ code: 'stale-fence' });
        expect(await store.get(`${at}l`)).toBeNull();
      });

      it('let go of a key that is put again without them', async () => {
        const store = await open();
        const lease = await store.grantLease(ttlMs);
        await write(store, { type: 'put', key: `${at}l`, value: 'leased', lease });
        await write(store, put(`${at}l`, 'for good'));
        await lease.revoke();
        expect(await store.get(`${at}l`)).toMatchObject({ value: 'for good' });
      });

      it('are lost when the store closes', async () => {
        const store = await open();
        const lease = await store.grantLease(ttlMs);
        await store.close();
        await within(1_000, 'lost', aborted(lease.lost));
        expect(lease.lost.reason).toMatchObject({ code: 'stale-fence' });
      });
    });

    describe('leadership', () => {
      const never = new AbortController().signal;

      it('has the revision of the election key as its term; the next term is greater', async () => {
        const store = await open();
        const first = await within(waitMs, 'first', campaign(store, 'first', never));
        await first.resign();
        expect(first.lost.aborted).toBe(true);
        const second = await within(waitMs, 'second', campaign(store, 'second', never));
        // Nobody led when it began.
        expect(second.succeeds).toBe(false);
        expect(second.term).toBeGreaterThan(first.term);
        await second.resign();
      });

      it('passes on at once when the leader resigns, and refuses what the old one still writes', async () => {
        const store = await open();
        const beside = harness.openBeside === null ? store : await also(harness.openBeside());
        const first = await within(waitMs, 'first', campaign(store, 'first', never));
        expect(await first.write([], [put(`${at}state`, 'of the first')])).toBe(true);
        let led = false;
        let wait: (leader: string) => void = () => undefined;
        const waits = new Promise<string>((resolve) => {
          wait = resolve;
        });
        const next = campaign(beside, 'second', never, wait).then((leadership) => {
          led = true;
          return leadership;
        });
        expect(await within(waitMs, 'the wait of the second', waits)).toBe('first');
        expect(led).toBe(false);
        await first.resign();
        const second = await within(waitMs, 'second', next);
        expect(second.succeeds).toBe(true);
        await expect(first.write([], [put(`${at}state`, 'too late')])).rejects.toMatchObject({
          code: 'stale-fence',
          message: expect.stringContaining(`${first.term}`),
        });
        expect(await store.get(`${at}state`)).toMatchObject({ value: 'of the first' });
        expect(await second.write([], [put(`${at}state`, 'of the second')])).toBe(true);
        await second.resign();
      });

      it('tells a condition that does not hold from a lost term', async () => {
        const store = await open();
        const leader = await within(waitMs, 'leader', campaign(store, 'leader', never));
        const stale = [{ key: `${at}state`, revision: 5 }];
        expect(await leader.write(stale, [put(`${at}state`, '')])).toBe(false);
        await leader.resign();
      });

      it('is given up by a candidate whose signal aborts', async () => {
        const store = await open();
        const leader = await within(waitMs, 'leader', campaign(store, 'leader', never));
        const abort = new AbortController();
        const waiting = campaign(store, 'candidate', abort.signal);
        setTimeout(() => abort.abort(new Error('no longer wanted')), 100);
        await expect(within(waitMs, 'candidate', waiting)).rejects.toThrow('no longer wanted');
        await leader.resign();
      });
    });

    storeInputContract(async () => ({ store: await open(), at }));

    const { reopen } = harness;
    describe.skipIf(reopen === null)('a holder that dies', () => {
      it('leaves its state; its leased keys go, and its revisions are not given out again', async () => {
        const store = await open();
        await write(store, put(`${at}kept`, 'as it was'));
        const lease = await store.grantLease(ttlMs);
        await write(store, put(`${at}under`, 'before the lease'));
        await write(store, { type: 'put', key: `${at}under`, value: 'leased', lease });
        const last = await write(store, put(`${at}gone`, ''), remove(`${at}kept2`));
        const next = await also((reopen as NonNullable<typeof reopen>)(store));
        expect(await next.get(`${at}kept`)).toMatchObject({ value: 'as it was' });
        const { revision } = (await next.get(`${at}gone`)) ?? { revision: 0 };
        expect(revision).toBe(last);
        if ((await next.get(`${at}under`)) !== null) await take(next, `${at}under`, revision, 1);
        expect(await next.get(`${at}under`)).toBeNull();
        expect(await write(next, put(`${at}new`, ''))).toBeGreaterThan(last);
      });

      it('is followed by a leader of a greater term', async () => {
        const store = await open();
        const never = new AbortController().signal;
        const first = await within(waitMs, 'first', campaign(store, 'first', never));
        const next = await also((reopen as NonNullable<typeof reopen>)(store));
        const second = await within(waitMs, 'second', campaign(next, 'second', never));
        expect(second.term).toBeGreaterThan(first.term);
        expect(first.lost.aborted).toBe(true);
        await second.resign();
      });
    });
  });
}
