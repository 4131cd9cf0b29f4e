import { describe, expect, it } from 'vitest';
import type { SchedulerLimits } from '../../../controller/scheduler/scheduler.ts';
import { requestOf } from '../../support/generation-requests.ts';
import { Driver, show } from '../../support/scheduler-driver.ts';
import { prefixHashes } from '../../support/scheduler-world.ts';

/** Blocks of 4 tokens, 8 tokens a step. */
const driverOf = (limits: Partial<SchedulerLimits> = {}) => new Driver(limits, prefixHashes.good);
const tokens = (count: number, first = 0) => Array.from({ length: count }, (_, i) => first + i);

/** Steps until nothing is left to do. */
function drain(driver: Driver): string[] {
  const shown: string[] = [];
  for (let step = driver.step(); step !== 'nothing'; step = driver.step()) shown.push(step);
  return shown;
}

describe('with KV on loan', () => {
  /** One request of 5 blocks after the other, of texts of their own: steps that name an address on loan. */
  function stepsOnLoan(localBlocks: number, hash: keyof typeof prefixHashes): number {
    const limits = { kvBlocks: 43, localBlocks, stepTokensMax: 32 };
    const driver = new Driver(limits, prefixHashes[hash]);
    let onLoan = 0;
    for (let request = 0; request < 12; request += 1) {
      driver.ask(`${request}`, tokens(13, 100 * request), 7);
      for (let plan = driver.plan(); plan !== null; plan = driver.plan()) {
        const tables = plan.sequences.flatMap(({ blockTable }) => blockTable);
        onLoan += Number(tables.some((block) => block >= 10));
        driver.answer();
      }
    }
    return onLoan;
  }

  it('a sequence that fits what every rank keeps runs there, whatever else is cached there', () => {
    expect([stepsOnLoan(10, 'none'), stepsOnLoan(10, 'good')]).toEqual([0, 0]);
    // Without loans, where blocks lie is the same to everybody: what is cached stays.
    expect(stepsOnLoan(43, 'good')).toBeGreaterThan(0);
  });
});

describe('a prompt that begins like one before it', () => {
  it('computes only what is new, from the same blocks on', () => {
    const driver = driverOf().ask('a', tokens(8), 1);
    const first = driver.plan();
    driver.answer();
    driver.ask('b', [...tokens(8), 90, 91], 1);
    const second = driver.plan();
    expect(second?.sequences[0]).toMatchObject({
      tokens: [90, 91],
      startPosition: 8,
      cachedTokens: 8,
    });
    expect(second?.sequences[0]?.blockTable.slice(0, 2)).toEqual(first?.sequences[0]?.blockTable);
    driver.answer();
    expect(driver.scheduler.counts).toMatchObject({ prefixQueryTokens: 18, prefixHitTokens: 8 });
  });

  it('has at least its last token computed: its logits are wanted', () => {
    const driver = driverOf().ask('a', tokens(8), 1);
    driver.step();
    driver.ask('b', tokens(8), 1).ask('c', tokens(5), 1);
    const plan = driver.plan();
    expect(show(plan)).toBe('b:4* c:1*');
    expect(plan?.sequences.map(({ cachedTokens }) => cachedTokens)).toEqual([4, 4]);
  });

  it('does not share a block that is not full', () => {
    const driver = driverOf().ask('a', tokens(7), 1);
    driver.step();
    driver.ask('b', tokens(7), 1);
    expect(driver.step()).toBe('b:3*');
  });

  it('may use a block as soon as the step that fills it is submitted', () => {
    const driver = driverOf().ask('a', tokens(8), 2);
    driver.plan();
    driver.ask('b', [...tokens(8), 90], 1);
    expect(show(driver.plan())).toBe('a:1* b:1*');
    expect(driver.scheduler.counts.kvBlocksUsed).toBe(4);
  });

  it('waits a step for a block that another one computes in this step', () => {
    const driver = driverOf()
      .ask('a', [...tokens(12), 70], 1)
      .ask('b', [...tokens(12), 80], 1);
    expect(drain(driver)).toEqual(['a:8', 'a:5*', 'b:1*']);
  });

  it('takes over what was computed while its own prompt is under way', () => {
    const driver = driverOf({ sequencesMax: 2 })
      .ask('long', tokens(16, 50), 1)
      .ask('a', tokens(12), 1);
    expect(driver.step()).toBe('long:4 a:4');
    expect(driver.step()).toBe('long:4 a:4');
    driver.ask('b', tokens(12), 1);
    expect(driver.step()).toBe('long:4 a:4*');
    // a is over: b begins with two of its three blocks.
    expect(driver.step()).toBe('long:4* b:4*');
  });

  it('is found by the tokens of an answer too: the next turn of a chat', () => {
    const driver = driverOf().ask('a', tokens(6), 3);
    expect(drain(driver)).toHaveLength(3);
    // Six tokens of the prompt, then 100 and 101; the last token of the answer was never computed.
    driver.ask('b', [...tokens(6), 100, 101, 102, 9], 1);
    expect(driver.step()).toBe('b:2*');
  });

  it('is not found after a different token before it', () => {
    const driver = driverOf().ask('a', tokens(8), 1);
    driver.step();
    driver.ask('b', [63, ...tokens(8).slice(1)], 1);
    expect(driver.step()).toBe('b:8*');
  });
});

describe('who shares', () => {
  it('is decided by the salt', () => {
    const driver = driverOf().ask('a', tokens(8), 1, 'one');
    driver.step();
    driver.ask('b', [...tokens(8), 9], 1, 'two');
    expect(driver.step()).toBe('b:8');
    drain(driver);
    driver.ask('c', [...tokens(8), 9], 1, 'one').ask('d', [...tokens(8), 9], 1, 'two');
    expect(driver.step()).toBe('c:1* d:1*');
  });

  it('is nobody for a request that has switched the cache off: it reads nothing and leaves nothing', () => {
    const driver = driverOf().ask('a', tokens(8), 1);
    driver.step();
    driver.ask('b', tokens(8), 1, null);
    expect(driver.step()).toBe('b:8*');
    driver.ask('c', tokens(8, 40), 1, null);
    driver.step();
    driver.ask('d', tokens(8, 40), 1);
    expect(driver.step()).toBe('d:8*');
    expect(driver.scheduler.counts.prefixQueryTokens).toBe(16);
  });

  it('is nobody without a hash', () => {
    const driver = new Driver().ask('a', tokens(8), 1);
    driver.step();
    driver.ask('b', tokens(8), 1);
    expect(driver.step()).toBe('b:8*');
    expect(driver.scheduler.counts.kvBlocksCached).toBe(0);
  });
});

describe('room', () => {
  it('counts cached blocks as free, and gives away those unused longest', () => {
    const driver = driverOf({ kvBlocks: 4 }).ask('a', tokens(8), 1);
    driver.step();
    driver.ask('b', tokens(8, 20), 1);
    driver.step();
    expect(driver.scheduler.counts).toMatchObject({ kvBlocksUsed: 0, kvBlocksCached: 4 });
    driver.ask('c', tokens(8, 40), 1);
    driver.step();
    expect(driver.scheduler.counts.prefixEvictions).toBe(2);
    driver.ask('again', [...tokens(8, 20), 9], 1);
    expect(driver.step()).toBe('again:1*');
  });

  it('is not found in blocks that are wanted themselves', () => {
    const driver = driverOf({ kvBlocks: 3, sequencesMax: 2 }).ask('a', tokens(8), 1);
    driver.step();
    driver.ask('holds', [60], 3);
    driver.step();
    // Two cached blocks, none free: b finds both, but its third has no room until `holds` is over.
    driver.ask('b', [...tokens(8), 9], 1);
    expect(driver.step()).toBe('holds:1*');
    expect(driver.step()).toBe('holds:1*');
    expect(driver.step()).toBe('b:1*');
    expect(driver.scheduler.counts.prefixEvictions).toBe(0);
  });

  it('taken away by preemption comes back from the cache when nobody needed it meanwhile', () => {
    const tight = { kvBlocks: 5, kvBlockTokens: 2, contextTokensMax: 10 };
    const driver = driverOf({ ...tight, replaysWhole: true })
      .ask('a', [1, 2, 3], 3)
      .ask('b', [4, 5, 6], 4);
    expect(driver.step()).toBe('a:3* b:3*');
    expect(driver.step()).toBe('a:1* b:1*');
    // Each wants a third block and there is one: a takes it, b gives its two back.
    expect(driver.step()).toBe('a:1*');
    expect(driver.scheduler.counts.preempted).toBe(1);
    const back = driver.plan();
    expect(show(back)).toBe('b:1*');
    expect(back?.sequences[0]).toMatchObject({ startPosition: 4, cachedTokens: 0 });
  });
});

describe('what is told of a prompt', () => {
  const told = ({ scheduler: { counts } }: Driver) => [
    counts.prefixQueryTokens,
    counts.prefixHitTokens,
  ];

  it('is told once, under the plan whose ranks have computed it', () => {
    const driver = driverOf()
      .ask('a', tokens(8), 2)
      .ask('b', [...tokens(8), 9], 2);
    driver.plan();
    driver.plan();
    expect(told(driver)).toEqual([0, 0]);
    // Those ranks never answered.
    driver.plans.length = 0;
    driver.rebase({}, 0);
    expect(drain(driver)).not.toEqual([]);
    expect(told(driver)).toEqual([17, 8]);
    driver.ask('c', tokens(8), 3);
    driver.step();
    expect(told(driver)).toEqual([25, 12]);
    driver.rebase({}, 0);
    drain(driver);
    expect(told(driver)).toEqual([0, 0]);
  });

  it('is not told again when it goes on after a loss with some of its answer', () => {
    const driver = driverOf();
    driver.scheduler.add(requestOf('given', [...tokens(8), 9], 2), 8);
    drain(driver);
    expect(told(driver)).toEqual([0, 0]);
    driver.scheduler.add(requestOf('not a token', [...tokens(8), 9], 2), 0);
    drain(driver);
    expect(told(driver)).toEqual([9, 8]);
  });

  it('are no finds of what it had computed itself before it gave way', () => {
    const tight = { kvBlocks: 6, kvBlockTokens: 2, stepTokensMax: 2, sequencesMax: 2 };
    const driver = driverOf({ ...tight, replaysWhole: true })
      .ask('a', [1], 6)
      .ask('b', tokens(8, 20), 1);
    // Four of its eight tokens were there already when it came back.
    expect(drain(driver).slice(-2)).toEqual(['b:2', 'b:2*']);
    expect(driver.scheduler.counts.preempted).toBe(1);
    expect(told(driver)).toEqual([9, 0]);
  });
});
