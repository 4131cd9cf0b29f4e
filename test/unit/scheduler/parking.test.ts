import { describe, expect, it } from 'vitest';
import { Driver, show } from '../../support/scheduler-driver.ts';

const tight = { kvBlocks: 6, kvBlockTokens: 2, contextTokensMax: 12 };
const parking = { blocks: 8 };

describe('parking', () => {
  it('moves the end of the newest away, and back when there is room again', () => {
    const driver = new Driver({ ...tight, parking }).add('a', 3, 8).add('b', 3, 6);
    const steps = Array.from({ length: 12 }, () => driver.step());
    expect(steps).toEqual([
      'a:3* b:3*',
      'a:1* b:1*',
      'a:1* b:1*',
      'a:1* b:1*',
      // Both need a fourth block, and there is none: b gives way. One block goes for a's next position, the others for those after it.
      '5>6 3>7',
      '2>8 a:1*',
      'a:1*',
      'a:1*',
      'a:1*',
      '8>0 7>1 6>2 b:1*',
      'b:1*',
      'nothing',
    ]);
    expect(driver.scheduler.counts).toMatchObject({
      recomputedTokens: 0,
      parkedBlocks: 3,
      reloadedBlocks: 3,
      reloadedTokens: 6,
      kvBlocksUsed: 0,
      kvParkedBlocksUsed: 0,
    });
    expect(driver.scheduler.takeTurns()).toEqual([
      { type: 'gave-way', requestId: 'b' },
      { type: 'resumed', requestId: 'b' },
    ]);
    expect(driver.scheduler.takeTurns()).toEqual([]);
  });

  it('gives up ahead of need nothing that would have to be computed again', () => {
    const choice = { pays: () => false, parks: () => false, recalls: () => false };
    const driver = new Driver({ ...tight, parking: { blocks: 8, choice } });
    driver.add('a', 3, 8).add('b', 3, 6);
    for (let step = 0; step < 5; step += 1) driver.step();
    // One block for a's next position; a needs two more within its next steps.
    expect(driver.scheduler.counts).toMatchObject({ preempted: 1, droppedTokens: 2 });
  });

  it.each([
    ['all of it comes back from where it is now', 8, ['9>0 8>1 7>2 b:1*'], 0],
    ['what has no parked address any more is computed again', 2, ['7>0 8>1 b:3*'], 2],
  ])('outlives its epoch: %s', (_, blocks, back, recomputedTokens) => {
    const driver = new Driver({ ...tight, parking }).add('a', 3, 8).add('b', 3, 6);
    for (let step = 0; step < 6; step += 1) driver.step();
    driver.rebase({ ...tight, kvBlocks: 7, parking: { blocks } }, 6);
    expect(driver.scheduler.counts.kvParkedBlocksUsed).toBe(Math.min(3, blocks));
    const steps = Array.from({ length: 6 }, () => driver.step());
    expect(steps.filter((step) => step.includes('>'))).toEqual(back);
    expect(driver.scheduler.counts).toMatchObject({ recomputedTokens, kvParkedBlocksUsed: 0 });
  });

  it('ends with the request: what waits is cancelled, its blocks and parked addresses are free', () => {
    const driver = new Driver({ ...tight, parking }).add('a', 3, 8).add('b', 3, 6);
    for (let step = 0; step < 6; step += 1) driver.step();
    expect(driver.scheduler.counts.kvParkedBlocksUsed).toBe(3);
    driver.scheduler.cancel('b');
    expect(driver.scheduler.counts).toMatchObject({ kvParkedBlocksUsed: 0, waiting: 0 });
    driver.scheduler.checkIntegrity();
  });

  it('holds parked addresses of a cancelled sequence until the step that moves to them is answered', () => {
    const driver = new Driver({ ...tight, parking }).add('a', 3, 8).add('b', 3, 6);
    for (let step = 0; step < 4; step += 1) driver.step();
    expect(show(driver.plan())).toBe('5>6 3>7');
    driver.scheduler.cancel('b');
    expect(driver.scheduler.counts.kvParkedBlocksUsed).toBe(2);
    driver.answer();
    expect(driver.scheduler.counts.kvParkedBlocksUsed).toBe(0);
  });

  it('moves no more a step than it may, and nobody newer starts meanwhile', () => {
    const limits = { kvBlocks: 8, kvBlockTokens: 2, contextTokensMax: 16 };
    const driver = new Driver({ ...limits, parking: { blocks: 8, movesPerStepMax: 1 } });
    driver.add('a', 8, 8).add('b', 6, 4);
    const steps: string[] = [];
    for (let step = 0; step < 40; step += 1) {
      const shown = driver.step();
      if (shown === 'nothing') break;
      steps.push(shown);
      if (step === 4) driver.add('c', 1, 1);
    }
    expect(steps.every((step) => step.split('>').length <= 2)).toBe(true);
    const back = steps.findIndex((step) => /[89]>\d/.test(step));
    expect(steps.slice(back).join(' | ')).toMatch(/^\d+>\d( \| \d+>\d)* b:1\* c:1\*/);
    expect(driver.scheduler.counts).toMatchObject({ running: 0, waiting: 0, recomputedTokens: 0 });
  });

  it('runs again when it computes, not when its way back begins', () => {
    const limits = { kvBlocks: 8, kvBlockTokens: 2, contextTokensMax: 16 };
    const driver = new Driver({ ...limits, parking: { blocks: 8, movesPerStepMax: 1 } });
    driver.add('a', 8, 8).add('b', 6, 4);
    const turns: string[] = [];
    for (let shown = driver.step(); shown !== 'nothing'; shown = driver.step()) {
      const [turn] = driver.scheduler.takeTurns();
      if (turn !== undefined) turns.push(`${turn.requestId} ${turn.type} ${shown}`);
    }
    expect(turns).toHaveLength(2);
    expect(turns[1]).toMatch(/^b resumed .*b:1/);
  });

  it('refuses moves that would never bring anything back', () => {
    const parking = { blocks: 1, movesPerStepMax: 0 };
    expect(() => new Driver({ parking })).toThrow('movesPerStepMax is 0');
  });
});
