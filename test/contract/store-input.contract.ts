/** What every store refuses, and says so; part of store.contract.ts. */
import { describe, expect, it } from 'vitest';
import { storeBounds } from '../../controller/store/bounds.ts';
import type { Store } from '../../controller/store/store.ts';
import { put, take, write } from '../support/store-access.ts';

/** `open` gives a store in which nobody wrote under `at` yet. */
export function storeInputContract(open: () => Promise<{ store: Store; at: string }>): void {
  describe('bad input', () => {
    const refused = (field: string) => ({ code: 'request-invalid', field });
    it.each([
      ['empty', ''],
      ['with a space', 'with space'],
      ['with a line break', 'with\nline'],
      ['with other than ASCII', 'ü'],
      ['that is too long', 'k'.repeat(storeBounds.keyCharactersMax + 1)],
    ])('refuses a key %s', async (_, key) => {
      const { store, at } = await open();
      await expect(store.get(key)).rejects.toMatchObject(refused('key'));
      await expect(store.list(key)).rejects.toMatchObject(refused('prefix'));
      await expect(store.transact([], [put(key, '')])).rejects.toMatchObject(refused('key'));
      await expect(
        store.transact([{ key, revision: 0 }], [put(`${at}a`, '')]),
      ).rejects.toMatchObject(refused('key'));
    });

    it.each([-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])(
      'refuses the revision %d',
      async (revision) => {
        const { store, at } = await open();
        const condition = { key: `${at}a`, revision };
        await expect(store.transact([condition], [put(`${at}a`, '')])).rejects.toMatchObject(
          refused('revision'),
        );
        await expect(take(store, at, revision, 1)).rejects.toMatchObject(refused('revision'));
      },
    );

    it.each([0, -1, storeBounds.leaseTtlMsMin - 1, storeBounds.leaseTtlMsMax + 1, Number.NaN])(
      'refuses a lease of %d ms',
      async (bad) => {
        const { store } = await open();
        await expect(store.grantLease(bad)).rejects.toMatchObject(refused('ttlMs'));
      },
    );

    it('takes transactions up to its bounds and refuses more, writing nothing', async () => {
      const { store, at } = await open();
      const many = (count: number) =>
        Array.from({ length: count }, (_, i) => put(`${at}n/${String(i).padStart(3, '0')}`, ''));
      const { writesMax, conditionsMax, transactionBytesMax } = storeBounds;
      const conditions = many(conditionsMax).map(({ key }) => ({ key, revision: 0 }));
      expect((await store.transact(conditions, many(writesMax))).applied).toBe(true);
      expect(await store.list(`${at}n/`)).toHaveLength(writesMax);
      await expect(store.transact([], many(writesMax + 1))).rejects.toMatchObject(
        refused('writes'),
      );
      await expect(store.transact([], [])).rejects.toMatchObject(refused('writes'));
      await expect(
        store.transact([...conditions, { key: `${at}x`, revision: 0 }], many(1)),
      ).rejects.toMatchObject(refused('conditions'));
      await expect(
        store.transact([], [put(`${at}twice`, '1'), put(`${at}twice`, '2')]),
      ).rejects.toMatchObject(refused('key'));
      const key = `${at}big`;
      const largest = 'v'.repeat(transactionBytesMax - key.length);
      await write(store, put(key, largest));
      expect((await store.get(key))?.value).toBe(largest);
      await expect(store.transact([], [put(key, `${largest}v`)])).rejects.toMatchObject(
        refused('writes'),
      );
      expect((await store.get(key))?.value).toBe(largest);
    });

    it('refuses everything once it is closed, and may be closed twice', async () => {
      const { store, at } = await open();
      await store.close();
      await store.close();
      const over = { code: 'unreachable', message: 'the store is closed' };
      await expect(store.get(`${at}a`)).rejects.toMatchObject(over);
      await expect(store.list(at)).rejects.toMatchObject(over);
      await expect(store.transact([], [put(`${at}a`, '')])).rejects.toMatchObject(over);
      await expect(store.grantLease(storeBounds.leaseTtlMsMin)).rejects.toMatchObject(over);
    });
  });
}
