import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { threadId, Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { sha256Of } from '../../../proto/base/file-hash.ts';
import { JobThread } from '../../../proto/base/job-thread.ts';
import type { Job } from './jobs-thread-main.ts';

vi.mock('node:crypto', { spy: true });

const threads: JobThread<Job, number>[] = [];
afterEach(async () => {
  for (const thread of threads.splice(0)) await thread.close();
});

function open(): JobThread<Job, number> {
  const thread = new JobThread<Job, number>('jobs-thread-main', import.meta.url);
  threads.push(thread);
  return thread;
}

describe('jobs on a thread of their own', () => {
  it('run there one after the other', async () => {
    const thread = open();
    const [first, second] = await Promise.all([thread.run('id'), thread.run('id')]);
    expect(first).not.toBe(threadId);
    expect(second).toBe(first);
  });

  it('are refused when too many wait, and taken again when one is done', async () => {
    const thread = open();
    const jobs = Array.from({ length: 17 }, () => thread.run('id'));
    const ends = await Promise.allSettled(jobs);
    expect(ends.map(({ status }) => status === 'fulfilled').indexOf(false)).toBe(16);
    expect(ends[16]).toMatchObject({ reason: { code: 'overloaded' } });
    expect(await thread.run('id')).toBeGreaterThan(0);
  });

  it('throw here what they throw there, and the next one runs', async () => {
    const thread = open();
    const id = await thread.run('id');
    const refused = { code: 'config-invalid', message: 'no', field: 'f', name: 'HelsError' };
    await expect(thread.run('refuse')).rejects.toMatchObject(refused);
    const failed = { message: 'a fault', name: 'Error' };
    await expect(thread.run('fail')).rejects.toMatchObject(failed);
    expect(await thread.run('id')).toBe(id);
  });

  it.each([
    ['exit', 'has ended'],
    ['break', 'broke'],
  ] as const)('get a new thread after one that breaks: %s', async (job, message) => {
    const thread = open();
    const id = await thread.run('id');
    const [broken, next] = await Promise.allSettled([thread.run(job), thread.run('id')]);
    expect(broken).toMatchObject({ reason: { message: expect.stringContaining(message) } });
    expect(next).toMatchObject({ status: 'fulfilled' });
    expect(next).not.toMatchObject({ value: id });
  });

  it('that cannot be sent leave the thread idle, and the next one runs', async () => {
    const thread = open();
    await thread.run('id');
    const [held, idle] = (['ref', 'unref'] as const).map((name) =>
      vi.spyOn(Worker.prototype, name),
    );
    await expect(thread.run((() => 1) as never)).rejects.toThrow('could not be cloned');
    expect(idle?.mock.calls).toEqual(held?.mock.calls);
    vi.restoreAllMocks();
    expect(await thread.run('id')).toBeGreaterThan(0);
  });

  it('end when the thread is closed', async () => {
    const thread = open();
    await thread.run('id');
    const hanging = thread.run('hang');
    const refused = expect(hanging).rejects.toThrow('the thread of the job has ended');
    await new Promise((resolve) => setImmediate(resolve));
    await thread.close();
    await refused;
  });
});

describe('the hash of a file', () => {
  it.each([
    ['small', 1000, 1],
    ['large', 5 * 2 ** 20, 0],
  ] as const)('%s: is made here only where it takes no time', async (_, bytes, timesHere) => {
    const directory = mkdtempSync(join(tmpdir(), 'hels-hash-'));
    const file = join(directory, 'file');
    const content = Buffer.alloc(bytes, 'x');
    writeFileSync(file, content);
    const expected = createHash('sha256').update(content).digest('hex');
    vi.mocked(createHash).mockClear();
    expect(await sha256Of(file, BigInt(bytes))).toBe(expected);
    expect(createHash).toHaveBeenCalledTimes(timesHere);
    rmSync(directory, { recursive: true });
    await expect(sha256Of(file, BigInt(bytes))).rejects.toThrow(/ENOENT/);
  });
});
