import type { Problem } from '../problem.ts';
import { type Capacity, capacitiesWithin, rowsBeside } from './capacity.ts';

/** What one device can take within a step time: each option is so many head groups and granules, and the rows still free beside. */
export interface DeviceOptions {
  readonly heads: readonly number[];
  readonly granules: readonly number[];
  /** Whole rows; -1 when the granules fit only as the last ones. */
  readonly rows: readonly number[];
  /** Whole rows when the granules end at the last one, which may be short. */
  readonly closingRows: readonly number[];
  readonly headsMax: number;
  readonly granulesMax: number;
}

/** Columns that the last granule lacks to a whole one. */
function granuleShortfall(problem: Problem): number {
  return problem.granules * problem.granuleColumns - problem.ffnColumns;
}

/** Granules that fit beside `heads` when they end at the last one, and so may be `shortfall` columns fewer; -1: not even none. */
function mostGranules(problem: Problem, capacity: Capacity, heads: number): number {
  const shortfall = granuleShortfall(problem);
  let most = problem.granules;
  for (const bound of capacity) {
    const slack = bound.limit - bound.perHeadGroup * heads;
    if (slack < 0) return -1;
    const columns = most * problem.granuleColumns - shortfall;
    if (bound.perColumn * columns <= slack) continue;
    most = Math.floor((slack / bound.perColumn + shortfall) / problem.granuleColumns);
  }
  return most;
}

/** All options of one device; null when there are more than `optionsMax`. */
function optionsOf(problem: Problem, capacity: Capacity, optionsMax: number): DeviceOptions | null {
  const options = { heads: [0], granules: [0], rows: [0], closingRows: [0] };
  const { granuleColumns, vocabRows } = problem;
  const shortfall = granuleShortfall(problem);
  const whole = (rows: number): number => (rows < vocabRows ? Math.floor(rows) : vocabRows);
  let granulesMax = 0;
  let headsMax = 0;
  let count = 0;
  for (let heads = 0; heads <= problem.headGroups; heads += 1) {
    const unusable = heads === 0 ? 0 : -1;
    const most = capacity.length > 0 ? mostGranules(problem, capacity, heads) : unusable;
    if (most < 0) break;
    if (count + most >= optionsMax) return null;
    headsMax = heads;
    granulesMax = Math.max(granulesMax, most);
    for (let granules = 0; granules <= most; granules += 1) {
      const columns = granules * granuleColumns;
      const open = whole(rowsBeside(capacity, heads, columns));
      options.heads[count] = heads;
      options.granules[count] = granules;
      options.rows[count] = open;
      options.closingRows[count] =
        granules > 0 && shortfall > 0
          ? whole(rowsBeside(capacity, heads, columns - shortfall))
          : open;
      count += 1;
    }
  }
  return { ...options, headsMax, granulesMax };
}

/**
 * The options of every device for a step of at most `seconds`, link included; null when there are more than `optionsMax` in all.
 */
export function optionsWithin(
  problem: Problem,
  seconds: number,
  optionsMax: number,
): DeviceOptions[] | null {
  const devices: DeviceOptions[] = [];
  let left = optionsMax;
  for (const capacity of capacitiesWithin(problem, seconds)) {
    const options = optionsOf(problem, capacity, left);
    if (options === null) return null;
    left -= options.heads.length;
    devices.push(options);
  }
  return devices;
}
