import { spawn } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileStore } from '../../controller/store/file-store.ts';
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
