import type { Problem } from '../problem.ts';
import { type Capacity, capacitiesWithin } from './capacity.ts';

/** Columns that the last granule lacks to a whole one. */
export function granuleShortfall(problem: Problem): number {
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

/** How far the options of one device reach within a step time. */
export interface DeviceReach {
  readonly capacity: Capacity;
  /** Most granules by heads, from none to `headsMax`. */
  readonly granulesBeside: readonly number[];
  readonly headsMax: number;
  readonly granulesMax: number;
  /** Options in all. */
  readonly count: number;
}

/** The reach of one device; null when it has more than `optionsMax` options. */
function reachOf(problem: Problem, capacity: Capacity, optionsMax: number): DeviceReach | null {
  const granulesBeside: number[] = [];
  let granulesMax = 0;
  let count = 0;
  for (let heads = 0; heads <= problem.headGroups; heads += 1) {
    const unusable = heads === 0 ? 0 : -1;
    const most = capacity.length > 0 ? mostGranules(problem, capacity, heads) : unusable;
    if (most < 0) break;
    if (count + most >= optionsMax) return null;
    granulesBeside.push(most);
    granulesMax = Math.max(granulesMax, most);
    count += most + 1;
  }
  const headsMax = Math.max(0, granulesBeside.length - 1);
  return { capacity, granulesBeside, headsMax, granulesMax, count };
}

/**
 * The reach of every device for a step of at most `seconds`, link included; null when they have more than `optionsMax` options in all.
 */
export function reachWithin(
  problem: Problem,
  seconds: number,
  optionsMax: number,
): DeviceReach[] | null {
  const devices: DeviceReach[] = [];
  let left = optionsMax;
  for (const capacity of capacitiesWithin(problem, seconds)) {
    const reach = reachOf(problem, capacity, left);
    if (reach === null) return null;
    left -= reach.count;
    devices.push(reach);
  }
  return devices;
}
