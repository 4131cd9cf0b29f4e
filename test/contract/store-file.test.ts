import { spawn } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileStore } from '../../controller/store/file-store.ts';
import { keys } from '../../controller/store/keys.ts';
import { campaign } from '../../controller/store/leadership.ts';
import { within } from '../support/deadline.ts';
import { storeContract } from './store.contract.ts';

let parent = '';
let directories = 0;
const current = () => join(parent, String(directories));

storeContract('file', {
  setUp: async () => {
    parent = mkdtempSync(join(tmpdir(), 'hels-store-'));
  },
  tearDown: async () => rmSync(parent, { recursive: true }),
  open: async () => {
    directories += 1;
    return FileStore.open(current());
  },
  reopen: async (store) => {
    await store.close();
    return FileStore.open(current());
  },
  openBeside: null,
  leaseRunsOut: null,
});

describe('file store on the disk', () => {
  let directory = '';
  let log = '';
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'hels-store-'));
    log = join(directory, 'store.log');
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  async function fill(count: number): Promise<void> {
    const store = FileStore.open(directory);
    for (let i = 0; i < count; i += 1) {
      await store.transact([], [{ type: 'put', key: `/k/${i}`, value: `value ${i}` }]);
    }
    await store.close();
  }

  const keysIn = async () => {
    const store = FileStore.open(directory);
    const listed = await store.list('/k/');
    await store.close();
    return listed.map(({ key }) => key);
  };

  it('drops a record that was being written when the process died, at whatever byte', async () => {
    await fill(3);
    const whole = readFileSync(log);
    const lastStart = whole.lastIndexOf(0x0a, whole.length - 2) + 1;
    for (let size = lastStart; size < whole.length; size += 1) {
      writeFileSync(log, whole);
      truncateSync(log, size);
      expect(await keysIn()).toEqual(['/k/0', '/k/1']);
    }
    const store = FileStore.open(directory);
    await store.transact([], [{ type: 'put', key: '/k/again', value: '' }]);
    await store.close();
    expect(await keysIn()).toEqual(['/k/0', '/k/1', '/k/again']);
  });

  it('refuses a log that is damaged in the middle, naming file, record and way out, and leaves it as it is', async () => {
    await fill(3);
    const damaged = readFileSync(log);
    damaged[40] = (damaged[40] ?? 0) ^ 1;
    writeFileSync(log, damaged);
    expect(() => FileStore.open(directory)).toThrow(
      expect.objectContaining({
        code: 'config-invalid',
        field: '--data-dir',
        message: expect.stringMatching(/store\.log: record 1 of 3 .* checksum.*backup/),
      }),
    );
    expect(readFileSync(log).equals(damaged)).toBe(true);
    expect(existsSync(join(directory, 'store.lock'))).toBe(false);
  });

  it('refuses a file that is no log at all', () => {
    writeFileSync(log, 'this is\nnot a log\nof ours\n');
    expect(() => FileStore.open(directory)).toThrow(/record 1 of 3/);
  });

  it('refuses a data directory that is a file', () => {
    writeFileSync(log, '');
    expect(() => FileStore.open(log)).toThrow(
      expect.objectContaining({ code: 'config-invalid', field: '--data-dir' }),
    );
  });

  it('refuses a log that is a directory, and gives the lock back', () => {
    mkdirSync(log);
    expect(() => FileStore.open(directory)).toThrow();
    expect(existsSync(join(directory, 'store.lock'))).toBe(false);
  });

  it('folds a long log when it opens, and keeps state and revision', async () => {
    const one = FileStore.open(directory);
    const { revision } = (await one.transact([], [{ type: 'put', key: '/k/0', value: 'v' }])) as {
      revision: number;
    };
    await one.close();
    // Written by hand: ten thousand transactions with a sync each would take minutes on a slow disk.
    const lines = readFileSync(log, 'utf8');
    appendFileSync(log, lines.repeat(10_001));
    const before = readFileSync(log).length;
    const store = FileStore.open(directory);
    const next = await store.transact([], [{ type: 'put', key: '/k/1', value: 'w' }]);
    expect(next.applied && next.revision).toBeGreaterThan(revision + 10_000);
    await store.close();
    expect(readFileSync(log).length).toBeLessThan(before / 100);
    expect(await keysIn()).toEqual(['/k/0', '/k/1']);
  });

  /** Puts `times` values of so many characters under the same key. */
  async function overwrite(store: FileStore, times: number, characters: number): Promise<void> {
    for (let i = 0; i < times; i += 1) {
      const value = `${i} ${'é'.repeat(characters)}`;
      await store.transact([], [{ type: 'put', key: '/k/same', value }]);
    }
  }

  it('folds a log that has grown to several times the state while it runs, and loses nothing', async () => {
    const store = FileStore.open(directory);
    await store.transact([], [{ type: 'put', key: '/k/first', value: 'stays' }]);
    let largest = 0;
    for (let i = 0; i < 40; i += 1) {
      await overwrite(store, 1, 20_000);
      largest = Math.max(largest, readFileSync(log).length);
    }
    // 1.6 MB were written; the state is 40 kB.
    expect(largest).toBeLessThan(400_000);
    const last = await store.transact([], [{ type: 'put', key: '/k/last', value: 'new' }]);
    const before = await store.list('/k/');
    await store.close();
    expect(existsSync(`${log}.next`)).toBe(false);
    const again = FileStore.open(directory);
    expect(await again.list('/k/')).toEqual(before);
    const next = await again.transact([], [{ type: 'put', key: '/k/next', value: '' }]);
    expect(next.applied && next.revision).toBe(last.applied && last.revision + 1);
    await again.close();
  });

  it('folds a state that grows no more often than it doubles twice', async () => {
    const store = FileStore.open(directory);
    let folds = 0;
    let file = statSync(log).ino;
    for (let i = 0; i < 200; i += 1) {
      const value = 'x'.repeat(20_000);
      await store.transact([], [{ type: 'put', key: `/k/${i}`, value }]);
      if (statSync(log).ino !== file) folds += 1;
      file = statSync(log).ino;
    }
    await store.close();
    expect(folds).toBeGreaterThan(0);
    // 4 MB from 256 KiB on.
    expect(folds).toBeLessThan(4);
  });

  it('keeps no leased key when it folds: the next process leads at once', async () => {
    const store = FileStore.open(directory);
    const never = new AbortController().signal;
    const first = await campaign(store, 'first', never);
    await overwrite(store, 40, 20_000);
    expect(await store.get(keys.election)).toMatchObject({ value: 'first' });
    await store.close();
    const again = FileStore.open(directory);
    const second = await within(1_000, 'the next leader', campaign(again, 'second', never));
    expect(second.term).toBeGreaterThan(first.term);
    await again.close();
  });

  it('goes on beside what a process left that died while it folded', async () => {
    await fill(2);
    writeFileSync(`${log}.next`, 'half of a rec');
    const store = FileStore.open(directory);
    await overwrite(store, 40, 20_000);
    await store.close();
    expect(await keysIn()).toEqual(['/k/0', '/k/1', '/k/same']);
    expect(existsSync(`${log}.next`)).toBe(false);
  });

  it('reads records of any length and characters, piece by piece', async () => {
    const store = FileStore.open(directory);
    const values = [0, 1, 2, 3].map((i) => `${'x'.repeat(i)}${'é€😀'.repeat(90_000)}`);
    for (const [i, value] of values.entries()) {
      await store.transact([], [{ type: 'put', key: `/k/${i}`, value }]);
    }
    await store.close();
    const again = FileStore.open(directory);
    expect((await again.list('/k/')).map(({ value }) => value)).toEqual(values);
    await again.close();
  });

  it('counts the records behind a damaged one, and a torn one among them as none', async () => {
    await fill(3);
    const damaged = readFileSync(log);
    damaged[40] = (damaged[40] ?? 0) ^ 1;
    writeFileSync(log, damaged.subarray(0, damaged.length - 5));
    expect(() => FileStore.open(directory)).toThrow(/record 1 of 2/);
  });

  describe('one process at a time', () => {
    const program = fileURLToPath(new URL('../support/hold-store.ts', import.meta.url));
    const loader = fileURLToPath(new URL('../support/typescript-loader.mjs', import.meta.url));

    /** Another process that opens the store, writes one key and holds it. */
    async function holder() {
      const child = spawn(process.execPath, ['--import', loader, program, directory], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      const said = new Promise<string>((resolve) =>
        child.stdout.once('data', (data) => resolve(String(data))),
      );
      const kill = async () => {
        child.kill('SIGKILL');
        await exited;
      };
      try {
        expect(await within(15_000, 'the holder', said)).toBe('held\n');
      } catch (error) {
        await kill();
        throw error;
      }
      return { pid: child.pid, kill };
    }

    it('refuses while another one holds it, naming the process, and takes over when that one was killed', async () => {
      const other = await holder();
      try {
        expect(() => FileStore.open(directory)).toThrow(
          expect.objectContaining({
            code: 'config-invalid',
            field: '--data-dir',
            message: expect.stringMatching(new RegExp(`in use by process ${other.pid}`)),
          }),
        );
      } finally {
        await other.kill();
      }
      const store = FileStore.open(directory);
      expect(await store.get('/held')).toMatchObject({ value: 'by another process' });
      await store.close();
    });

    it('refuses a second store of the same process too', async () => {
      const store = FileStore.open(directory);
      expect(() => FileStore.open(directory)).toThrow(`in use by process ${process.pid}`);
      await store.close();
      await FileStore.open(directory).close();
    });

    it.each([
      [
        'of a process id that now belongs to another process',
        `{"pid":${process.pid},"startTicks":"1"}`,
      ],
      ['that is empty', ''],
      ['of a process that is gone', '{"pid":4194304,"startTicks":"1"}'],
    ])('takes over a lock %s', async (_, content) => {
      writeFileSync(join(directory, 'store.lock'), content);
      await FileStore.open(directory).close();
    });
  });
});
