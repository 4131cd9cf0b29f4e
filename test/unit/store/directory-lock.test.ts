/** Locks of processes that cannot be seen from here: each container has process ids of its own. */
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { DirectoryLock, lockRefreshMs } from '../../../controller/store/directory-lock.ts';
import { FileStore } from '../../../controller/store/file-store.ts';
import { campaign } from '../../../controller/store/leadership.ts';

let directory = '';
let lock = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'hels-lock-'));
  lock = join(directory, 'store.lock');
});
afterEach(() => {
  vi.useRealTimers();
  rmSync(directory, { recursive: true });
});

const nowMs = 1_800_000_000_000;

/** As a process of another container with our process id has left it. */
function lockElsewhere(touchedMs: number): void {
  const space = 'of another boot pid:[1]';
  writeFileSync(lock, JSON.stringify({ pid: process.pid, startTicks: '1', space }));
  utimesSync(lock, touchedMs / 1_000, touchedMs / 1_000);
}

const inUse = expect.objectContaining({
  code: 'config-invalid',
  field: '--data-dir',
  message: expect.stringMatching(
    /in use by process \d+ of another container or host \(if it is gone, try again in 10 s\); stop it/,
  ),
});

it('holds while it is touched, although no process of that id is the holder here', () => {
  lockElsewhere(nowMs - 9_999);
  const held = readFileSync(lock, 'utf8');
  expect(() => DirectoryLock.take(directory, nowMs)).toThrow(inUse);
  expect(readFileSync(lock, 'utf8')).toBe(held);
  expect(readdirSync(directory)).toEqual(['store.lock']);
});

it.each([-10_000, 10_000])('is taken over when it was touched %i ms from now', (sinceMs) => {
  lockElsewhere(nowMs + sinceMs);
  const taken = DirectoryLock.take(directory, nowMs);
  taken.check();
  expect(readdirSync(directory)).toEqual(['store.lock']);
  taken.release();
  expect(existsSync(lock)).toBe(false);
});

it('is touched by its holder', async () => {
  const held = DirectoryLock.take(directory, nowMs);
  await held.refresh(nowMs + 5_000);
  expect(statSync(lock).mtimeMs).toBe(nowMs + 5_000);
});

it('that is gone is no longer ours, for another process may have come and left', async () => {
  const held = DirectoryLock.take(directory, nowMs);
  rmSync(lock);
  const gone = { code: 'stale-fence', message: expect.stringContaining('store.lock is gone') };
  expect(() => held.check()).toThrow(expect.objectContaining(gone));
  await expect(held.refresh(nowMs)).rejects.toMatchObject(gone);
});

it('is not given back, nor touched, by a process that stood still while another one took it over', async () => {
  const held = DirectoryLock.take(directory, nowMs);
  lockElsewhere(nowMs);
  expect(() => held.check()).toThrow(expect.objectContaining({ code: 'stale-fence' }));
  await expect(held.refresh(nowMs + 5_000)).rejects.toMatchObject({ code: 'stale-fence' });
  expect(statSync(lock).mtimeMs).toBe(nowMs);
  held.release();
  expect(existsSync(lock)).toBe(true);
});

it('ends the leadership of a controller that lost it, which leaves the log to the other one', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  const store = FileStore.open(directory);
  const leadership = await campaign(store, 'a', new AbortController().signal);
  const log = readFileSync(join(directory, 'store.log'), 'utf8');
  lockElsewhere(Date.now());
  const write = leadership.write([], [{ type: 'put', key: '/a', value: '' }]);
  await expect(write).rejects.toMatchObject({ code: 'stale-fence' });
  expect(leadership.lost.aborted).toBe(true);
  expect(readFileSync(join(directory, 'store.log'), 'utf8')).toBe(log);
  await store.close();
  expect(existsSync(lock)).toBe(true);
});

it('ends a lease without a write, too', async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  const store = FileStore.open(directory);
  const { lost } = await store.grantLease(5_000);
  lockElsewhere(Date.now());
  const told = new Promise((resolve) => lost.addEventListener('abort', resolve));
  vi.advanceTimersByTime(lockRefreshMs);
  await told;
  expect(lost.reason.message).toContain('another process took');
  await store.close();
});
