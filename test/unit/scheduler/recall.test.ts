/** KV on loan comes home where there is room for all of it: the exchanges of every step then end. */
import { describe, expect, it } from 'vitest';
import { movesAlways } from '../../../controller/scheduler/restore-choice.ts';
import { Driver } from '../../support/scheduler-driver.ts';
import { prefixHashes } from '../../support/scheduler-world.ts';

/** Blocks of 4 tokens, 7 of which lie with every rank; a step moves one. */
const lending = {
  kvBlocks: 16,
  localBlocks: 7,
  recalls: true,
  parking: { blocks: 0, movesPerStepMax: 1 },
};

/** `a` fills what lies at home and ends after 12 steps; `b` runs on loan and goes on. */
function driverOf(limits: object = {}, hash: keyof typeof prefixHashes = 'none'): Driver {
  return new Driver({ ...lending, ...limits }, prefixHashes[hash]).add('a', 8, 12).add('b', 8, 20);
}

/** Tables of `b`, step by step, until nothing is left to do. */
function tablesOfB(driver: Driver): number[][] {
  const tables: number[][] = [];
  for (let plan = driver.plan(); plan !== null; plan = driver.plan()) {
    const b = plan.sequences.find(({ requestId }) => requestId === 'b');
    if (b !== undefined) tables.push(b.blockTable);
    driver.answer();
  }
  return tables;
}

const stepsOnLoan = (driver: Driver) =>
  tablesOfB(driver).filter((table) => table.some((block) => block >= lending.localBlocks)).length;

describe('a sequence whose KV is on loan', () => {
  it('gets it home when others end, a part in each step, and runs there', () => {
    const driver = driverOf();
    const moves: string[] = [];
    const lent: number[] = [];
    for (let plan = driver.plan(); plan !== null; plan = driver.plan()) {
      if (plan.moves.length > 0) moves.push(plan.moves.map((m) => `${m.from}>${m.to}`).join(' '));
      const tables = plan.sequences.flatMap(({ blockTable }) => blockTable);
      lent.push(tables.filter((block) => block >= lending.localBlocks).length);
      driver.answer();
    }
    expect(moves).toEqual(['7>0', '9>4']);
    expect(lent.at(-1)).toBe(0);
    expect(driver.scheduler.counts).toMatchObject({ recalledBlocks: 2, recalledTokens: 8 });
    expect(stepsOnLoan(driverOf())).toBeLessThan(stepsOnLoan(driverOf({ recalls: false })));
  });

  it('keeps it where it is while not all of it and what comes next has room at home', () => {
    const driver = driverOf().add('c', 8, 24);
    for (let step = 0; step < 14; step += 1) driver.step();
    expect(driver.scheduler.counts).toMatchObject({ recalledBlocks: 0 });
  });

  it('keeps it where moving costs more than the exchanges that are left', () => {
    const asked: [number, number][] = [];
    const recalls = (blocks: number, steps: number) => {
      asked.push([blocks, steps]);
      return false;
    };
    const choice = { ...movesAlways, recalls };
    const driver = driverOf({ parking: { ...lending.parking, choice } });
    expect(stepsOnLoan(driver)).toBe(stepsOnLoan(driverOf({ recalls: false })));
    const [first] = asked;
    expect(first?.[1]).toBeGreaterThan(asked.at(-1)?.[1] ?? 0);
  });

  it('is found by others where it is then', () => {
    const driver = new Driver(lending, prefixHashes.good);
    const prompt = Array.from({ length: 9 }, (_, index) => index);
    driver.ask('a', [60, 61, 62, 63, 64, 65, 66, 67], 12).ask('b', prompt, 24);
    for (let step = 0; step < 16; step += 1) driver.step();
    expect(driver.scheduler.counts.recalledBlocks).toBeGreaterThan(0);
    driver.ask('c', prompt, 2);
    const plan = driver.plan();
    const [b, c] = ['b', 'c'].map((id) => plan?.sequences.find((s) => s.requestId === id));
    expect(c).toMatchObject({ cachedTokens: 8 });
    expect(c?.blockTable.slice(0, 2)).toEqual(b?.blockTable.slice(0, 2));
    expect(Math.max(...(c?.blockTable ?? []))).toBeLessThan(lending.localBlocks);
  });
});
