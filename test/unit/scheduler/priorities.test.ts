import { describe, expect, it } from 'vitest';
import type { SchedulerLimits } from '../../../controller/scheduler/scheduler.ts';
import { arrivalsPerPriority } from '../../../controller/scheduler/turn-order.ts';
import { requestOf } from '../../support/generation-requests.ts';
import { Driver, show } from '../../support/scheduler-driver.ts';
import { prefixHashes } from '../../support/scheduler-world.ts';

/** `id`, or `id` and its priority. */
function driverWith(limits: Partial<SchedulerLimits>) {
  const driver = new Driver(limits);
  const add = (requestId: string, prompt: number, maxTokens: number, priority?: number) => {
    const request = requestOf(requestId, prompt, maxTokens);
    driver.scheduler.add(priority === undefined ? request : { ...request, priority });
  };
  return { driver, add };
}

describe('priorities', () => {
  it('let a lower value start before those that came earlier, and equal ones in the order of arrival', () => {
    const { driver, add } = driverWith({ sequencesMax: 1 });
    add('batch', 2, 1, 1);
    add('first', 2, 1);
    add('second', 2, 1, 0);
    add('urgent', 2, 1, -1);
    expect([driver.step(), driver.step(), driver.step(), driver.step()]).toEqual([
      'urgent:2*',
      'first:2*',
      'second:2*',
      'batch:2*',
    ]);
  });

  it('take a slot from the last that runs, which goes on from its own KV', () => {
    const { driver, add } = driverWith({ sequencesMax: 2 });
    add('a', 3, 6);
    add('b', 3, 6);
    expect(driver.step()).toBe('a:3* b:3*');
    add('urgent', 2, 2, -1);
    expect([driver.step(), driver.step()]).toEqual(['a:1* urgent:2*', 'urgent:1* a:1*']);
    expect(driver.scheduler.takeTurns()).toEqual([{ type: 'gave-way', requestId: 'b' }]);
    expect(driver.step()).toBe('a:1* b:1*');
    expect(driver.scheduler.counts).toMatchObject({ preempted: 1, recomputedTokens: 0 });
  });

  it('let a running one come to rest first: no token on its way is lost', () => {
    const { driver, add } = driverWith({ sequencesMax: 1 });
    add('a', 3, 6);
    driver.plan();
    expect(show(driver.plan())).toBe('a:1*');
    add('urgent', 2, 1, -1);
    expect(driver.plan()).toBeNull();
    driver.answer();
    expect(driver.plan()).toBeNull();
    expect(driver.answer()).toHaveLength(1);
    expect([driver.step(), driver.step()]).toEqual(['urgent:2*', 'a:1*']);
  });

  it('take the KV of as many as they need, from the last on', () => {
    const { driver, add } = driverWith({ kvBlocks: 10, sequencesMax: 8, stepTokensMax: 16 });
    for (const id of ['a', 'b', 'c']) add(id, 8, 4);
    driver.step();
    driver.step();
    // 3 blocks each are held; 12 tokens need 3 and one for each of the two that stay.
    add('urgent', 12, 4, -5);
    driver.step();
    const { running, waiting } = driver.scheduler.counts;
    expect([running, waiting]).toEqual([2, 2]);
    expect(driver.scheduler.takeTurns().map(({ requestId }) => requestId)).toEqual(['c', 'b']);
  });

  it('push nobody out who is before them, nor in vain', () => {
    const { driver, add } = driverWith({ kvBlocks: 8, sequencesMax: 4, stepTokensMax: 32 });
    add('most', 20, 4, -2);
    add('little', 3, 4);
    driver.step();
    // 5 blocks and 1 are held: with what `little` has, 3 are free.
    add('urgent', 16, 2, -1);
    expect(driver.step()).toBe('most:1* little:1*');
    expect(driver.scheduler.takeTurns()).toEqual([]);
  });

  it('push nobody out for blocks that they share with them', () => {
    const driver = new Driver(
      { kvBlocks: 20, sequencesMax: 4, stepTokensMax: 64, contextTokensMax: 80 },
      prefixHashes.good,
    );
    const tokens = (first: number, count: number) =>
      Array.from({ length: count }, (_, index) => first + index);
    const add = (id: string, prompt: number[], maxTokens: number, priority: number) => {
      driver.scheduler.add({ ...requestOf(id, prompt, maxTokens), priority });
    };
    add('most', tokens(100, 13), 40, -2);
    const common = tokens(200, 32);
    add('victim', common, 20, 0);
    driver.step();
    driver.step();
    // What `victim` could give but for the common prompt is too little.
    add('urgent', [...common, ...tokens(300, 31)], 4, -1);
    expect(driver.step()).toBe('most:1* victim:1*');
    expect(driver.scheduler.takeTurns()).toEqual([]);
  });

  it('push nobody out where room is reserved', () => {
    const { driver, add } = driverWith({ sequencesMax: 1, reserveTokens: 1 });
    add('a', 3, 3);
    driver.step();
    add('later', 2, 1);
    add('urgent', 2, 1, -1);
    expect([driver.step(), driver.step(), driver.step(), driver.step()]).toEqual([
      'a:1*',
      'a:1*',
      'urgent:2*',
      'later:2*',
    ]);
  });

  it('age: a level is worth so many arrivals, and no more', () => {
    const { driver, add } = driverWith({ sequencesMax: 1, waitingMax: 5_000 });
    add('runs', 2, 2, -3);
    driver.step();
    add('batch', 2, 1, 1);
    for (let index = 1; index < arrivalsPerPriority; index += 1) {
      add('gone', 1, 1);
      driver.scheduler.cancel('gone');
    }
    add('before', 2, 1);
    add('after', 2, 1);
    expect([driver.step(), driver.step(), driver.step(), driver.step()]).toEqual([
      'runs:1*',
      'batch:2*',
      'before:2*',
      'after:2*',
    ]);
  });

  it('order the prompts of a step: the better one first, then the shorter', () => {
    const { driver, add } = driverWith({ stepTokensMax: 8, sequencesMax: 4, kvBlocks: 64 });
    add('urgent', 6, 1, -1);
    add('better', 5, 1, -1);
    add('short', 2, 1);
    expect(driver.step()).toBe('urgent:4 better:4');
  });

  it('stay with a sequence that goes to another epoch', () => {
    const { driver, add } = driverWith({ sequencesMax: 1 });
    add('a', 3, 2);
    add('urgent', 2, 1, -1);
    driver.rebase({ sequencesMax: 1 }, 0);
    expect([driver.step(), driver.step()]).toEqual(['urgent:2*', 'a:3*']);
  });
});
