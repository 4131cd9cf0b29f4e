/** KV on loan comes home where there is room for all of it: the exchanges of every step then end. */
import { describe, expect, it } from 'vitest';
import { movesAlways } from '../../../controller/scheduler/restore-choice.ts';
import { Driver } from '../../support/scheduler-driver.ts';
import { prefixHashes } from '../../support/scheduler-world.ts';

/** Blocks of 4 tokens, 7 of which lie with every rank; a step moves one. */
const lending = {
  kvBlocks: 16,
  localBlocks: 7,
  recallsPerStepMax: 1,
};

/** The same with room for longer ones. */
const roomy = { ...lending, localBlocks: 10 };

const tokensFrom = (first: number, count: number) =>
  Array.from({ length: count }, (_, index) => first + index);

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
    expect(stepsOnLoan(driverOf())).toBeLessThan(stepsOnLoan(driverOf({ recallsPerStepMax: 0 })));
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
    const driver = driverOf({ parking: { blocks: 0, choice } });
    expect(stepsOnLoan(driver)).toBe(stepsOnLoan(driverOf({ recallsPerStepMax: 0 })));
    const [first] = asked;
    expect(first?.[1]).toBeGreaterThan(asked.at(-1)?.[1] ?? 0);
  });

  it('is found by others where it is then', () => {
    const driver = new Driver(lending, prefixHashes.good);
    const prompt = tokensFrom(0, 9);
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

  it('comes home for all that share it', () => {
    const driver = new Driver({ ...roomy, kvBlocks: 20 }, prefixHashes.good);
    const prompt = tokensFrom(0, 9);
    driver.ask('a', tokensFrom(100, 33), 6, null);
    for (let step = 0; step < 5; step += 1) driver.step();
    driver.ask('b', prompt, 20);
    for (let step = 0; step < 3; step += 1) driver.step();
    driver.ask('c', prompt, 20);
    const moves: string[] = [];
    const last = new Map<string, number[]>();
    for (let plan = driver.plan(); plan !== null; plan = driver.plan()) {
      moves.push(...plan.moves.map(({ from, to }) => `${from}>${to}`));
      for (const { requestId, blockTable } of plan.sequences) last.set(requestId, blockTable);
      driver.answer();
    }
    // The second block of their prompt, and the third of each.
    expect(moves.slice(0, 3)).toEqual(['10>1', '11>2', '13>4']);
    expect(last.get('b')?.slice(0, 2)).toEqual([9, 1]);
    expect(last.get('c')?.slice(0, 2)).toEqual([9, 1]);
  });

  it('is not moved where there is none yet: the rest of a prompt gets room at home', () => {
    const driver = new Driver({ ...lending, stepTokensMax: 4 }).add('a', 20, 1).add('b', 24, 4);
    const moved: number[] = [];
    const tables: number[][] = [];
    for (let plan = driver.plan(); plan !== null; plan = driver.plan()) {
      moved.push(...plan.moves.map(({ from }) => from));
      const b = plan.sequences.find(({ requestId }) => requestId === 'b');
      if (b !== undefined) tables.push(b.blockTable);
      driver.answer();
    }
    // The last of its blocks was empty.
    expect(moved).toEqual([7, 8, 9]);
    expect(Math.max(...(tables.at(-1) ?? []))).toBeLessThan(lending.localBlocks);
  });

  it('stays while requests wait: the room is theirs', () => {
    const recalledWith = (waiting: readonly string[]) => {
      const driver = new Driver({ ...roomy, kvBlocks: 20, sequencesMax: 2 });
      driver.add('a', 32, 8).add('b', 8, 24).add('c', 4, 8);
      for (const id of waiting) driver.add(id, 4, 8);
      for (let step = 0; step < 18; step += 1) driver.step();
      return driver.scheduler.counts.recalledBlocks;
    };
    expect(recalledWith([])).toBeGreaterThan(0);
    expect(recalledWith(['d'])).toBe(0);
  });
});
