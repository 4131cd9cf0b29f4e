/** A disk that fails in the middle of a record: what the log says afterwards. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { FileStore } from '../../../controller/store/file-store.ts';

const disk = vi.hoisted(() => ({
  full: false,
  syncFails: false,
  fullBeside: false,
  /** Of a file beside the log. */
  beside: -1,
}));

vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  return {
    ...fs,
    openSync: (file: string, flags: string) => {
      const descriptor = fs.openSync(file, flags);
      if (file.endsWith('.next')) disk.beside = descriptor;
      return descriptor;
    },
    writeFileSync: (target: number | string, text: string) => {
      const full = disk.full || (disk.fullBeside && target === disk.beside);
      if (!full || typeof target === 'string') return fs.writeFileSync(target, text);
      fs.writeFileSync(target, text.slice(0, text.length / 2));
      throw new Error('ENOSPC: no space left on device');
    },
    fsyncSync: (target: number) => {
      if (disk.syncFails) throw new Error('EIO: i/o error');
      fs.fsyncSync(target);
    },
  };
});

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'hels-store-'));
});
afterEach(() => {
  Object.assign(disk, { full: false, syncFails: false });
  rmSync(directory, { recursive: true });
});

it.each([
  ['half a record is written', { full: true }, 'ENOSPC'],
  ['a record cannot be synced', { syncFails: true }, 'EIO'],
])('refuses the write and stays whole when %s', async (_, failure, reason) => {
  const store = FileStore.open(directory);
  const put = (key: string) => store.transact([], [{ type: 'put', key, value: 'v' }]);
  await put('/a');
  const before = readFileSync(join(directory, 'store.log'));
  Object.assign(disk, failure);
  await expect(put('/b')).rejects.toMatchObject({
    code: 'internal',
    message: expect.stringContaining(reason),
  });
  expect(await store.get('/b')).toBeNull();
  Object.assign(disk, { full: false, syncFails: false });
  expect(readFileSync(join(directory, 'store.log')).equals(before)).toBe(true);
  await put('/c');
  await store.close();
  const again = FileStore.open(directory);
  expect((await again.list('/')).map(({ key }) => key)).toEqual(['/a', '/c']);
  await again.close();
});

it('goes on with the long log while there is no room for a short one beside it', async () => {
  const store = FileStore.open(directory);
  const log = join(directory, 'store.log');
  const put = (value: string) => store.transact([], [{ type: 'put', key: '/a', value }]);
  disk.fullBeside = true;
  for (let i = 0; i < 20; i += 1) await put(`${i}${'x'.repeat(30_000)}`);
  expect(readFileSync(log).length).toBeGreaterThan(600_000);
  expect(existsSync(`${log}.next`)).toBe(false);
  disk.fullBeside = false;
  for (let i = 0; i < 20; i += 1) await put(`${i}${'y'.repeat(30_000)}`);
  expect(readFileSync(log).length).toBeLessThan(600_000);
  const held = await store.get('/a');
  await store.close();
  const again = FileStore.open(directory);
  expect(await again.get('/a')).toEqual(held);
  await again.close();
});
