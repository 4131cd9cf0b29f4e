/** What others do about KV that runs out, as deployments may choose it: replay of the whole sequence, room set aside for all of it. */
import { describe, expect, it } from 'vitest';
import { Scheduler } from '../../../controller/scheduler/scheduler.ts';
import { Driver, limitsOf } from '../../support/scheduler-driver.ts';

/** Plays until nothing is left; the most sequences that ran at once, and what every step was. */
function playOut(driver: Driver) {
  const steps: string[] = [];
  let runningMax = 0;
  for (;;) {
    const shown = driver.step();
    runningMax = Math.max(runningMax, driver.scheduler.counts.running);
    if (shown === 'nothing') return { steps, runningMax, counts: driver.scheduler.counts };
    steps.push(shown);
  }
}

describe('replay of the whole sequence', () => {
  it('gives up all KV of the newest at once, even where it could be parked', () => {
    const parking = { blocks: 16 };
    const driver = new Driver({ kvBlocks: 5, replaysWhole: true, parking });
    driver.add('a', 6, 8).add('b', 4, 8);
    const { steps, counts } = playOut(driver);
    expect(counts).toMatchObject({ parkedBlocks: 0, preempted: 1 });
    // b had its prompt and three tokens computed; all of them are prefilled again.
    expect(counts.recomputedTokens).toBeGreaterThanOrEqual(4);
    expect(counts.recomputedTokens).toBe(counts.droppedTokens);
    expect(steps.filter((step) => /b:[4-9]/.test(step))).toHaveLength(2);
  });

  it('loses more than a sequence that gives up only its end', () => {
    const lost = [true, false].map((replaysWhole) => {
      const driver = new Driver({ kvBlocks: 6, stepTokensMax: 16, replaysWhole });
      return playOut(driver.add('a', 8, 8).add('b', 8, 8)).counts.recomputedTokens;
    });
    expect(lost[0]).toBeGreaterThan(lost[1] as number);
  });
});

describe('room set aside', () => {
  it('lets nobody start who could have to give way', () => {
    const driver = new Driver({ kvBlocks: 6, reserveTokens: 1 });
    driver.add('a', 4, 8).add('b', 4, 8).add('c', 4, 4);
    const { runningMax, counts } = playOut(driver);
    expect(runningMax).toBe(2);
    expect(counts).toMatchObject({ preempted: 0, droppedTokens: 0, recomputedTokens: 0 });
  });

  it('uses the pool to its last block', () => {
    const driver = new Driver({ kvBlocks: 6, reserveTokens: 1 });
    // Three blocks each: no block may be kept back for who runs already.
    driver.add('a', 4, 8).add('b', 4, 8);
    expect(driver.step()).toBe('a:4* b:4*');
  });

  it('is as large for short sequences as for long ones where all get slots of one size', () => {
    const driver = new Driver({ kvBlocks: 8, reserveTokens: 16 });
    driver.add('a', 2, 2).add('b', 2, 2).add('c', 2, 2);
    expect(playOut(driver).runningMax).toBe(2);
  });

  it('still lets one run alone that is longer than all slots', () => {
    const driver = new Driver({ kvBlocks: 8, reserveTokens: 24 });
    driver.add('a', 4, 26).add('b', 4, 4);
    const { runningMax, counts } = playOut(driver);
    expect([runningMax, counts.preempted]).toEqual([1, 0]);
  });

  it('waits for blocks of one that has ended instead of pushing another out', () => {
    const driver = new Driver({ kvBlocks: 4, reserveTokens: 1 });
    driver.add('a', 4, 4).add('b', 4, 4, [101]);
    driver.plan();
    driver.plan();
    // b stops while a step that names it is under way: its blocks come back with that one.
    driver.answer([100, 101]);
    driver.add('c', 4, 4);
    driver.plan();
    while (driver.plans.length > 0) driver.answer();
    expect(playOut(driver).counts.preempted).toBe(0);
  });

  it('takes the blocks that those hold who wait after a change to fewer', () => {
    const driver = new Driver({ kvBlocks: 12, stepTokensMax: 40, reserveTokens: 1 });
    driver.add('a', 8, 4).add('b', 8, 4).add('c', 8, 4).add('d', 8, 4);
    expect(driver.step()).toBe('a:8* b:8* c:8* d:8*');
    driver.rebase({ kvBlocks: 6, stepTokensMax: 40, reserveTokens: 1 }, 6);
    // a, b and c hold all of them and need one more each.
    expect(driver.scheduler.counts).toMatchObject({ kvBlocksUsed: 6, waiting: 4 });
    const { steps, runningMax, counts } = playOut(driver);
    expect(steps[0]).toBe('a:1* b:1*');
    expect(runningMax).toBe(2);
    expect(counts).toMatchObject({ running: 0, waiting: 0, kvBlocksUsed: 0, preempted: 0 });
  });

  it('takes them for one that runs too, when those that wait hold what is set aside for it', () => {
    const driver = new Driver({ kvBlocks: 12, stepTokensMax: 40, reserveTokens: 1 });
    driver.add('a', 4, 8).add('b', 8, 4).add('c', 8, 4);
    expect(driver.step()).toBe('a:4* b:8* c:8*');
    driver.rebase({ kvBlocks: 5, stepTokensMax: 40, reserveTokens: 1 }, 5);
    const { runningMax, counts } = playOut(driver);
    expect(runningMax).toBe(1);
    expect(counts).toMatchObject({ running: 0, waiting: 0, kvBlocksUsed: 0, preempted: 0 });
  });

  it('is refused in units below a token', () => {
    expect(() => new Scheduler(limitsOf({ reserveTokens: 0 }))).toThrow(/reserveTokens is 0/);
  });
});
