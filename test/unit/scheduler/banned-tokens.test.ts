import { describe, expect, it } from 'vitest';
import { Driver } from '../../support/scheduler-driver.ts';

const stop = [7, 8];

/** Of the next step, which is submitted before the ones under way are answered. */
const bannedIn = (driver: Driver, requestId = 'a') =>
  driver.plan()?.sequences.find((sequence) => sequence.requestId === requestId)?.bannedTokens;

describe('tokens that are banned at first', () => {
  it('are so in the steps that sample the first ones, whatever is back by then', () => {
    const driver = new Driver().add('a', 10, 6, stop, 3);
    expect(bannedIn(driver)).toEqual([]);
    expect(bannedIn(driver)).toEqual(stop);
    driver.answer();
    expect([bannedIn(driver), bannedIn(driver)]).toEqual([stop, stop]);
    expect(bannedIn(driver)).toEqual([]);
    for (const token of [50, 51, 52]) driver.answer([token]);
    expect(driver.answer([7])).toMatchObject([{ type: 'token' }, { reason: 'stop' }]);
  });

  it('are so for their request alone', () => {
    const driver = new Driver().add('a', 2, 6, stop, 3).add('b', 2, 6, stop);
    expect(driver.plan()?.sequences.map(({ bannedTokens }) => bannedTokens)).toEqual([stop, []]);
  });

  it('are so for the same tokens when their request gives way and comes back', () => {
    const driver = new Driver({ kvBlocks: 4 }).add('a', 8, 5).add('b', 4, 8, stop, 6);
    const asked: (number[] | undefined)[] = [];
    let gaveWay = false;
    for (let plan = driver.plan(); plan !== null; plan = driver.plan()) {
      const { waiting } = driver.scheduler.counts;
      gaveWay ||= waiting > 0 && asked.length > 0;
      const part = plan.sequences.find(({ requestId }) => requestId === 'b');
      if (part?.sampling) asked.push(part.bannedTokens);
      driver.answer();
    }
    expect(gaveWay).toBe(true);
    expect(asked).toEqual([...Array(6).fill(stop), [], []]);
  });

  it('are so for the same tokens in another epoch, which samples those under way anew', () => {
    const driver = new Driver().add('a', 4, 6, stop, 3);
    driver.step();
    driver.step();
    expect([bannedIn(driver), bannedIn(driver)]).toEqual([stop, []]);
    driver.plans.length = 0;
    driver.rebase({}, 0);
    expect([bannedIn(driver), bannedIn(driver)]).toEqual([stop, []]);
  });
});
