import { describe, expect, it } from 'vitest';
import { Scheduler } from '../../../controller/scheduler/scheduler.ts';
import { requestOf } from '../../support/generation-requests.ts';
import { Driver, limitsOf, show } from '../../support/scheduler-driver.ts';

describe('what goes into a step', () => {
  it('has a prompt whole, then one token a step', () => {
    const driver = new Driver().add('a', 5, 3);
    expect([driver.step(), driver.step(), driver.step(), driver.step()]).toEqual([
      'a:5*',
      'a:1*',
      'a:1*',
      'nothing',
    ]);
    expect(driver.scheduler.counts).toMatchObject({ running: 0, waiting: 0, kvBlocksUsed: 0 });
  });

  it('cuts a long prompt to the budget and samples after its last chunk only', () => {
    const driver = new Driver().add('a', 20, 2);
    expect([driver.step(), driver.step(), driver.step(), driver.step()]).toEqual([
      'a:8',
      'a:8',
      'a:4*',
      'a:1*',
    ]);
  });

  it('names the positions, the tokens and just the blocks that each chunk covers', () => {
    const driver = new Driver().add('a', 10, 2);
    const prompt = requestOf('a', 10, 2).promptTokenIds;
    const first = driver.plan()?.sequences[0];
    expect(first).toMatchObject({ startPosition: 0, tokens: prompt.slice(0, 8), sampling: null });
    expect(first?.blockTable).toHaveLength(2);
    driver.answer();
    const second = driver.plan()?.sequences[0];
    expect(second).toMatchObject({ startPosition: 8, tokens: prompt.slice(8) });
    expect(second?.blockTable).toHaveLength(3);
    expect(second?.blockTable.slice(0, 2)).toEqual(first?.blockTable);
  });

  it('serves decodes first, then half of the rest to the oldest prompt, then the shortest, then the oldest again', () => {
    const driver = new Driver().add('a', 2, 9);
    driver.step();
    driver.add('b', 20, 2).add('c', 9, 2).add('d', 1, 2);
    expect(driver.step()).toBe('a:1* b:4 d:1* c:2');
    expect(driver.step()).toBe('a:1* d:1* b:3 c:3');
    // c has 4 left and takes 3: nothing is left for b beyond its half.
    expect(driver.step()).toBe('a:1* b:4 c:3');
    expect(driver.step()).toBe('a:1* c:1* b:6');
    expect(driver.step()).toBe('a:1* c:1* b:3*');
  });

  it('admits in the order of arrival: a small request does not overtake a big one that finds no room', () => {
    const driver = new Driver({ kvBlocks: 4 }).add('a', 8, 2);
    driver.step();
    driver.add('big', 8, 2).add('small', 1, 1);
    expect(driver.step()).toBe('a:1*');
    expect(driver.step()).toBe('big:7 small:1*');
  });

  it('admits while every running sequence keeps room for one more block', () => {
    const driver = new Driver({ kvBlocks: 5 }).add('a', 4, 4).add('b', 8, 4).add('c', 1, 2);
    // a and b take three blocks; c needs one and would leave one for the two.
    expect(driver.step()).toBe('a:4* b:4');
    expect(driver.scheduler.counts).toMatchObject({ running: 2, waiting: 1 });
  });

  it('runs at most sequencesMax at once', () => {
    const driver = new Driver({ sequencesMax: 2 }).add('a', 1, 2).add('b', 1, 2).add('c', 1, 2);
    expect([driver.step(), driver.step(), driver.step()]).toEqual([
      'a:1* b:1*',
      'a:1* b:1*',
      'c:1*',
    ]);
  });

  it('refuses limits under which a full batch could not decode', () => {
    expect(() => new Scheduler(limitsOf({ sequencesMax: 9 }))).toThrow('stepTokensMax');
  });
});

describe('one step ahead', () => {
  it('takes the token just sampled while its value is on the way, and stops at max_tokens', () => {
    const driver = new Driver().add('a', 3, 3);
    expect(show(driver.plan())).toBe('a:3*');
    const second = driver.plan()?.sequences[0];
    expect(second).toMatchObject({ takeSampled: true, tokens: [], startPosition: 3 });
    driver.answer([50]);
    const third = driver.plan()?.sequences[0];
    expect(third).toMatchObject({ takeSampled: true, tokens: [], startPosition: 4 });
    expect(driver.plan()).toBeNull();
    driver.answer([51]);
    expect(driver.answer([52]).at(-1)).toEqual({
      type: 'finished',
      requestId: 'a',
      reason: 'length',
    });
  });

  it('sends the token by value when it is back already', () => {
    const driver = new Driver().add('a', 3, 3);
    driver.plan();
    driver.answer([50]);
    expect(driver.plan()?.sequences[0]).toMatchObject({ takeSampled: false, tokens: [50] });
  });

  it('drops what a sequence got after the step in which it ended', () => {
    const driver = new Driver().add('a', 3, 9, [7]);
    driver.plan();
    driver.plan();
    expect(driver.answer([7]).map(({ type }) => type)).toEqual(['token', 'finished']);
    expect(driver.answer([8])).toEqual([]);
    expect(driver.scheduler.counts.kvBlocksUsed).toBe(0);
  });

  it('reuses a block and a slot only when the last step that names them is answered', () => {
    const driver = new Driver({ kvBlocks: 1, sequencesMax: 1 }).add('a', 1, 3, [7]).add('b', 1, 1);
    const first = driver.plan()?.sequences[0];
    driver.plan();
    expect(driver.answer([7]).at(-1)).toMatchObject({ type: 'finished', reason: 'stop' });
    expect(driver.plan()).toBeNull();
    expect(driver.scheduler.counts.kvBlocksUsed).toBe(1);
    driver.answer();
    const next = driver.plan()?.sequences[0];
    expect(next).toMatchObject({
      requestId: 'b',
      slot: first?.slot,
      blockTable: first?.blockTable,
    });
  });

  it('refuses answers out of order, unknown ones, and ones without a token', () => {
    const driver = new Driver().add('a', 3, 3);
    driver.plan();
    driver.plan();
    expect(() => driver.scheduler.apply(2, [])).toThrow('step 2 answered after step 0');
    expect(() => driver.scheduler.apply(9, [])).toThrow('step 9');
    expect(() => driver.scheduler.apply(1, [])).toThrow('step 1 has no token for slot 0');
  });
});

describe('preemption', () => {
  const tight = { kvBlocks: 5, kvBlockTokens: 2, contextTokensMax: 8 };

  it('takes the newest sequence, which loses no more than is needed and comes back to its place', () => {
    const driver = new Driver(tight).add('a', 3, 5).add('b', 3, 5);
    expect(driver.step()).toBe('a:3* b:3*');
    expect(driver.step()).toBe('a:1* b:1*');
    driver.add('c', 1, 1);
    // Each needs its third block and there is one: a takes it, b waits and keeps its two until a needs one of them.
    expect(driver.step()).toBe('a:1*');
    expect(driver.scheduler.counts).toMatchObject({ preempted: 1, waiting: 2, running: 1 });
    expect(driver.scheduler.counts.kvBlocksUsed).toBe(5);
    expect(driver.step()).toBe('a:1*');
    expect(driver.step()).toBe('a:1*');
    const back = driver.plan();
    expect(show(back)).toBe('b:3* c:1*');
    expect(back?.sequences[0]).toMatchObject({
      startPosition: 2,
      tokens: [...requestOf('b', 3, 5).promptTokenIds.slice(2), 101, 103],
    });
    expect(back?.replayedTokens).toBe(2);
    expect(driver.scheduler.counts).toMatchObject({ droppedTokens: 2, recomputedTokens: 2 });
    driver.answer();
    expect([driver.step(), driver.step(), driver.step()]).toEqual(['b:1*', 'b:1*', 'nothing']);
  });

  it('waits for the tokens of the victim that are on their way', () => {
    const driver = new Driver(tight).add('a', 3, 5).add('b', 3, 5);
    driver.plan();
    driver.plan();
    // Both want a third block, and there is one. Two of b's tokens are on their way.
    for (let onTheWay = 2; onTheWay > 0; onTheWay -= 1) {
      expect(show(driver.plan())).toBe('a:1*');
      expect(driver.scheduler.counts.preempted).toBe(0);
      driver.answer();
    }
    expect(show(driver.plan())).toBe('a:1*');
    expect(driver.scheduler.counts.preempted).toBe(1);
  });

  it('leaves the oldest alone: it ends although others want its blocks all the time', () => {
    const driver = new Driver(tight).add('a', 1, 7).add('b', 1, 7).add('c', 1, 7);
    let finished = '';
    for (let step = 0; step < 200 && driver.plan() !== null; step += 1) {
      for (const event of driver.answer()) {
        if (event.type === 'finished') finished += event.requestId;
      }
    }
    expect(finished).toBe('abc');
    expect(driver.scheduler.counts).toMatchObject({ running: 0, waiting: 0, kvBlocksUsed: 0 });
  });
});

describe('the end of a request', () => {
  it('is a stop token, which is delivered, or max_tokens', () => {
    const driver = new Driver().add('a', 1, 9, [7, 8]).add('b', 1, 1);
    driver.plan();
    expect(driver.answer([8, 5])).toEqual([
      { type: 'token', requestId: 'a', sampled: { slot: 0, tokenId: 8 } },
      { type: 'finished', requestId: 'a', reason: 'stop' },
      { type: 'token', requestId: 'b', sampled: { slot: 1, tokenId: 5 } },
      { type: 'finished', requestId: 'b', reason: 'length' },
    ]);
  });

  it('says stop when the last allowed token is a stop token', () => {
    const driver = new Driver().add('a', 1, 1, [7]);
    driver.plan();
    expect(driver.answer([7]).at(-1)).toMatchObject({ reason: 'stop' });
  });

  const none = { running: 0, waiting: 0, kvBlocksUsed: 0 };

  it('is a cancel while it waits', () => {
    const driver = new Driver({ sequencesMax: 1 }).add('a', 1, 2).add('b', 1, 1);
    driver.step();
    driver.scheduler.cancel('b');
    expect(driver.scheduler.counts.waiting).toBe(0);
    expect([driver.step(), driver.step()]).toEqual(['a:1*', 'nothing']);
  });

  it('is a cancel between the chunks of its prompt: the blocks come back at once when no step is under way', () => {
    const driver = new Driver().add('a', 20, 1);
    driver.step();
    driver.scheduler.cancel('a');
    expect(driver.scheduler.counts).toMatchObject(none);
    expect(driver.step()).toBe('nothing');
  });

  it('is a cancel with two steps under way: the blocks come back with the last answer', () => {
    const driver = new Driver().add('a', 3, 5);
    driver.plan();
    driver.plan();
    driver.scheduler.cancel('a');
    driver.scheduler.cancel('a');
    expect(driver.plan()).toBeNull();
    expect(driver.answer()).toEqual([]);
    expect(driver.scheduler.counts.kvBlocksUsed).toBe(1);
    expect(driver.answer()).toEqual([]);
    expect(driver.scheduler.counts).toMatchObject(none);
  });

  it('is a cancel while it is preempted', () => {
    const driver = new Driver({ kvBlocks: 5, kvBlockTokens: 2, contextTokensMax: 8 });
    driver.add('a', 3, 5).add('b', 3, 5);
    driver.step();
    driver.step();
    driver.step();
    expect(driver.scheduler.counts.preempted).toBe(1);
    driver.scheduler.cancel('b');
    expect([driver.step(), driver.step(), driver.step()]).toEqual(['a:1*', 'a:1*', 'nothing']);
  });

  it('ignores a cancel of a request that is over or never was, and takes its id again', () => {
    const driver = new Driver().add('a', 1, 1);
    driver.step();
    driver.scheduler.cancel('a');
    driver.scheduler.cancel('never');
    expect(driver.add('a', 2, 1).step()).toBe('a:2*');
  });
});

describe('refusals', () => {
  it('names what is too long, for the model and for the pool', () => {
    const model = new Driver({ contextTokensMax: 10 });
    expect(() => model.add('a', 6, 5)).toThrow(
      expect.objectContaining({
        code: 'context-too-long',
        field: 'max_tokens',
        message: expect.stringMatching(/6 tokens plus max_tokens 5 is 11; .* 10/),
      }),
    );
    model.add('a', 5, 5);
    const pool = new Driver({ kvBlocks: 2, kvBlockTokens: 4 });
    expect(pool.scheduler.contextTokensMax).toBe(8);
    expect(() => pool.add('a', 8, 1)).toThrow(
      /is 9; one sequence may have 8: the group holds KV of 8 tokens, the model could take 64/,
    );
  });

  it('has no empty prompt, no two requests of one id, and a bounded queue', () => {
    const driver = new Driver({ waitingMax: 2 });
    expect(() => driver.add('a', 0, 1)).toThrow(
      expect.objectContaining({ code: 'request-invalid', field: 'prompt' }),
    );
    driver.add('a', 1, 1);
    expect(() => driver.add('a', 1, 1)).toThrow("request 'a' is here already");
    driver.add('b', 1, 1);
    expect(() => driver.add('c', 1, 1)).toThrow(expect.objectContaining({ code: 'overloaded' }));
    expect(driver.scheduler.counts.waiting).toBe(2);
    driver.step();
    driver.add('c', 1, 1);
  });
});
