import { describe, expect, it } from 'vitest';
import { NewestRun } from '../../../worker/daemon/newest-run.ts';

const fence = (epoch: number) => ({ term: 1, epoch });

/** A body of three parts of work, each ended by the test; counts how many run at once. */
function fakeWork() {
  const pending: (() => void)[] = [];
  let running = 0;
  let runningMax = 0;
  return {
    runningMax: () => runningMax,
    body: (done: number[]) => async (requireNewest: () => void) => {
      for (const part of [0, 1, 2]) {
        requireNewest();
        running += 1;
        runningMax = Math.max(runningMax, running);
        await new Promise<void>((resolve) => pending.push(resolve));
        running -= 1;
        done.push(part);
      }
    },
    /** Ends parts as they come until there are no more. */
    async run() {
      for (let idle = 0; idle < 5; ) {
        await new Promise((resolve) => setImmediate(resolve));
        const end = pending.shift();
        idle = end === undefined ? idle + 1 : 0;
        end?.();
      }
    },
  };
}

describe('the runs of one device', () => {
  it('go on when nothing newer comes', async () => {
    const work = fakeWork();
    const done: number[] = [];
    const running = new NewestRun().run(fence(1), work.body(done));
    await work.run();
    await running;
    expect(done).toEqual([0, 1, 2]);
  });

  it('end for a newer one, which then has the device for itself', async () => {
    const work = fakeWork();
    const device = new NewestRun();
    const done: number[] = [];
    const older = device.run(fence(1), work.body([]));
    const expectation = expect(older).rejects.toThrow(
      /\(term 1, epoch 1\) ended for that of \(term 1, epoch 2\)/,
    );
    const newer = device.run(fence(2), work.body(done));
    await work.run();
    await expectation;
    await newer;
    expect(done).toEqual([0, 1, 2]);
    expect(work.runningMax()).toBe(1);
  });

  it('that wait are let go by a chain of newer ones: only the newest works', async () => {
    const work = fakeWork();
    const device = new NewestRun();
    const runs = [1, 2, 3].map((epoch) => device.run(fence(epoch), work.body([])));
    const settled = Promise.allSettled(runs);
    await work.run();
    expect((await settled).map(({ status }) => status)).toEqual([
      'rejected',
      'rejected',
      'fulfilled',
    ]);
    expect(work.runningMax()).toBe(1);
  });
});
