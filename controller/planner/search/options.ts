import type { Problem } from '../problem.ts';
import { rowsBeside } from './capacity.ts';
import { type DeviceReach, granuleShortfall } from './reach.ts';
import type { Window } from './windows.ts';

/** What one device can take within a step time: each option is so many head groups and granules, and the rows still free beside. */
export interface DeviceOptions {
  readonly heads: readonly number[];
  readonly granules: readonly number[];
  /** Whole rows; -1 when the granules fit only as the last ones. */
  readonly rows: readonly number[];
  /** Whole rows when the granules end at the last one, which may be short. */
  readonly closingRows: readonly number[];
}

/** The options of one device that lead from sums in `before` to sums in `after`. */
export function optionsBetween(
  problem: Problem,
  { capacity, granulesBeside, headsMax }: DeviceReach,
  before: Window,
  after: Window,
): DeviceOptions {
  const { granuleColumns, vocabRows } = problem;
  const shortfall = granuleShortfall(problem);
  const whole = (rows: number): number => (rows < vocabRows ? Math.floor(rows) : vocabRows);
  const headsFrom = Math.max(0, after.headsFrom - before.headsTo);
  const headsTo = Math.min(headsMax, after.headsTo - before.headsFrom);
  const granulesFrom = Math.max(0, after.granulesFrom - before.granulesTo);
  const granulesTo = after.granulesTo - before.granulesFrom;
  const options = {
    heads: [] as number[],
    granules: [] as number[],
    rows: [] as number[],
    closingRows: [] as number[],
  };
  for (let heads = headsFrom; heads <= headsTo; heads += 1) {
    const most = Math.min(granulesBeside[heads] ?? -1, granulesTo);
    for (let granules = granulesFrom; granules <= most; granules += 1) {
      const columns = granules * granuleColumns;
      const open = whole(rowsBeside(capacity, heads, columns));
      const closes = granules > 0 && shortfall > 0;
      options.heads.push(heads);
      options.granules.push(granules);
      options.rows.push(open);
      options.closingRows.push(
        closes ? whole(rowsBeside(capacity, heads, columns - shortfall)) : open,
      );
    }
  }
  return options;
}
