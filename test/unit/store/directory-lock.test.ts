import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileStore } from '../../../controller/store/file-store.ts';

let directory = '';
const lockFile = () => join(directory, 'store.lock');

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'hels-lock-'));
});

afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

/** What a store that is open writes into its lock. */
async function lockOfThisProcess(): Promise<string> {
  const store = FileStore.open(directory);
  const text = readFileSync(lockFile(), 'utf8');
  await store.close();
  return text;
}

describe('the lock of a data directory', () => {
  it('refuses a second holder while the first lives', async () => {
    writeFileSync(lockFile(), await lockOfThisProcess());
    expect(() => FileStore.open(directory)).toThrow(`in use by process ${process.pid}`);
  });

  it('is taken over from a process that is gone', async () => {
    writeFileSync(lockFile(), (await lockOfThisProcess()).replace(/^\d+/, '4194305'));
    await FileStore.open(directory).close();
  });

  /** After a power cut the lock is still there, and its number soon belongs to another process. */
  it.runIf(process.platform === 'linux')(
    'is taken over when its process number belongs to another life',
    async () => {
      const text = await lockOfThisProcess();
      const [pid, boot, start] = text.split(' ');
      expect(start).toMatch(/^\d+$/);
      const otherBoot = `${pid} 00000000-0000-0000-0000-000000000000 ${start}`;
      const otherStart = `${pid} ${boot} ${Number(start) - 1}`;
      for (const stale of [otherBoot, otherStart]) {
        writeFileSync(lockFile(), stale);
        await FileStore.open(directory).close();
      }
    },
  );

  it('is respected when it names only a living process', () => {
    writeFileSync(lockFile(), String(process.ppid));
    expect(() => FileStore.open(directory)).toThrow(`in use by process ${process.ppid}`);
  });
});
