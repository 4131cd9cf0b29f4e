import type { Problem } from '../problem.ts';
import type { DeviceReach } from './reach.ts';

/** Closed ranges of the sums of heads and granules over the devices so far. */
export interface Window {
  readonly headsFrom: number;
  readonly headsTo: number;
  readonly granulesFrom: number;
  readonly granulesTo: number;
}

/** A path of running sums (real numbers, one entry before each device and one at the end) and how far a search may stray from it. */
export interface Corridor {
  readonly heads: readonly number[];
  readonly granules: readonly number[];
  readonly headsRadius: number;
  readonly granulesRadius: number;
}

/** Head sums of a window. */
export const windowWidth = (window: Window): number =>
  Math.max(0, window.headsTo - window.headsFrom + 1);

export const windowCells = (window: Window): number =>
  Math.max(0, window.granulesTo - window.granulesFrom + 1) * windowWidth(window);

/** Sums that lie in the corridor too. The complete sums are always allowed at the end, the empty ones at the start. */
function within(window: Window, corridor: Corridor, index: number): Window {
  const heads = corridor.heads[index] ?? 0;
  const granules = corridor.granules[index] ?? 0;
  return {
    headsFrom: Math.max(window.headsFrom, Math.floor(heads - corridor.headsRadius)),
    headsTo: Math.min(window.headsTo, Math.ceil(heads + corridor.headsRadius)),
    granulesFrom: Math.max(window.granulesFrom, Math.floor(granules - corridor.granulesRadius)),
    granulesTo: Math.min(window.granulesTo, Math.ceil(granules + corridor.granulesRadius)),
  };
}

/**
 * The sums worth visiting before each device, and after the last: those that the devices so far can reach and the devices still to
 * come can complete, and that lie in `corridor` if there is one.
 */
export function windowsOf(
  problem: Problem,
  devices: readonly DeviceReach[],
  corridor: Corridor | null,
): Window[] {
  let headsAfter = devices.reduce((sum, reach) => sum + reach.headsMax, 0);
  let granulesAfter = devices.reduce((sum, reach) => sum + reach.granulesMax, 0);
  let headsBefore = 0;
  let granulesBefore = 0;
  const windows: Window[] = [];
  for (let index = 0; index <= devices.length; index += 1) {
    const window = {
      headsFrom: Math.max(0, problem.headGroups - headsAfter),
      headsTo: Math.min(problem.headGroups, headsBefore),
      granulesFrom: Math.max(0, problem.granules - granulesAfter),
      granulesTo: Math.min(problem.granules, granulesBefore),
    };
    const inner = index > 0 && index < devices.length;
    windows.push(corridor !== null && inner ? within(window, corridor, index) : window);
    const reach = devices[index];
    if (reach === undefined) break;
    headsBefore += reach.headsMax;
    granulesBefore += reach.granulesMax;
    headsAfter -= reach.headsMax;
    granulesAfter -= reach.granulesMax;
  }
  return windows;
}

/** Cell updates of a search over these windows, its set-up included. */
export function windowsWork(devices: readonly DeviceReach[], windows: readonly Window[]): number {
  let work = 0;
  for (const [index, reach] of devices.entries()) {
    const before = windowCells(windows[index] as Window);
    const after = windowCells(windows[index + 1] as Window);
    work += reach.count * Math.min(before, after) + after;
  }
  return work;
}
