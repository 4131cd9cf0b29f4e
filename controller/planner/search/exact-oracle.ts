import type { Counts, Problem } from '../problem.ts';
import { spreadRows } from './capacity.ts';
import type { DeviceOptions } from './options.ts';
import { type Window, windowCells, windowWidth } from './windows.ts';

/** The sums in `window` after some devices. */
interface Layer {
  readonly window: Window;
  /** Most rows by sum, -1 = unreachable. Shared by every second layer. */
  readonly rows: Float64Array;
  /** The option of the last device that gets there; meaningless where unreachable. */
  readonly choice: Int32Array;
}

/** Where two layers and one option meet. */
interface Transition {
  readonly before: Layer;
  readonly after: Layer;
  readonly option: number;
  readonly heads: number;
  readonly granules: number;
}

/** Head sums lie side by side: they are many more than granule sums, and the inner loop runs over them. */
const cellOf = (window: Window, heads: number, granules: number): number =>
  (granules - window.granulesFrom) * windowWidth(window) + (heads - window.headsFrom);

/** Takes the option, worth `added` rows, from the sums with granules in [granulesFrom, granulesTo]. */
function takeOption(
  transition: Transition,
  added: number,
  granulesFrom: number,
  granulesTo: number,
): void {
  const { before, after, option, heads, granules } = transition;
  const from = before.window;
  const to = after.window;
  const headsFrom = Math.max(from.headsFrom, to.headsFrom - heads);
  const count = Math.min(from.headsTo, to.headsTo - heads) - headsFrom + 1;
  const { rows: sourceRows } = before;
  const { rows: targetRows, choice } = after;
  for (let sum = granulesFrom; sum <= granulesTo; sum += 1) {
    const source = cellOf(from, headsFrom, sum);
    const target = cellOf(to, headsFrom + heads, sum + granules);
    for (let step = 0; step < count; step += 1) {
      const reached = sourceRows[source + step] as number;
      if (reached >= 0 && reached + added > (targetRows[target + step] as number)) {
        targetRows[target + step] = reached + added;
        choice[target + step] = option;
      }
    }
  }
}

/** Fills `after` with the sums after one more device. */
function extend(problem: Problem, before: Layer, options: DeviceOptions, after: Layer): void {
  after.rows.fill(-1, 0, after.choice.length);
  const from = before.window;
  const to = after.window;
  for (let option = 0; option < options.heads.length; option += 1) {
    const heads = options.heads[option] as number;
    const granules = options.granules[option] as number;
    const granulesFrom = Math.max(from.granulesFrom, to.granulesFrom - granules);
    const granulesTo = Math.min(from.granulesTo, to.granulesTo - granules);
    if (granulesFrom > granulesTo) continue;
    const transition = { before, after, option, heads, granules };
    const open = options.rows[option] as number;
    const closing = options.closingRows[option] as number;
    if (open >= 0) takeOption(transition, open, granulesFrom, granulesTo);
    const closes = granules > 0 && granulesTo === problem.granules - granules;
    if (closes && closing > open) takeOption(transition, closing, granulesTo, granulesTo);
  }
}

/** Follows the choices back from the complete sums. Null when the rows do not suffice. */
function trace(
  problem: Problem,
  layers: readonly Layer[],
  devices: readonly DeviceOptions[],
): Counts | null {
  const headGroups = new Array<number>(devices.length).fill(0);
  const granules = new Array<number>(devices.length).fill(0);
  const rooms = new Array<number>(devices.length).fill(0);
  let headsLeft = problem.headGroups;
  let granulesLeft = problem.granules;
  for (let index = devices.length - 1; index >= 0; index -= 1) {
    const layer = layers[index + 1] as Layer;
    const options = devices[index] as DeviceOptions;
    const option = layer.choice[cellOf(layer.window, headsLeft, granulesLeft)] as number;
    const count = options.granules[option] as number;
    const closes = count > 0 && granulesLeft === problem.granules;
    headGroups[index] = options.heads[option] as number;
    granules[index] = count;
    rooms[index] = (closes ? options.closingRows : options.rows)[option] as number;
    headsLeft -= headGroups[index] as number;
    granulesLeft -= count;
  }
  const working = headGroups.map((count, index) => count > 0 || (granules[index] as number) > 0);
  const vocabRows = spreadRows(problem.vocabRows, rooms, working);
  return vocabRows === null ? null : { headGroups, granules, vocabRows };
}

/** Layers before, between and after the devices, over few allocations: many small ones would keep the garbage collector busy. */
function allocateLayers(windows: readonly Window[]): Layer[] {
  const cells = windows.map(windowCells);
  const most = Math.max(...cells);
  const rows = [new Float64Array(most), new Float64Array(most)];
  const choices = new Int32Array(cells.reduce((sum, count) => sum + count, 0));
  let begin = 0;
  return windows.map((window, index) => {
    const end = begin + (cells[index] as number);
    const choice = choices.subarray(begin, end);
    begin = end;
    return { window, rows: rows[index % 2] as Float64Array, choice };
  });
}

/**
 * Finds a split made of `devices`' options, or proves that the windows hold none: dynamic programming over the devices with the sums
 * of heads and granules as the state and the most vocabulary rows as the value. Exact in heads, granules (the short last one
 * included) and rows; complete when the windows are not cut by a corridor. Work: `windowsWork` updates; memory: 4 bytes a cell of
 * all windows and 16 of the largest.
 */
export function splitOf(
  problem: Problem,
  devices: readonly DeviceOptions[],
  windows: readonly Window[],
): Counts | null {
  if (windows.some((window) => windowCells(window) === 0)) return null;
  const layers = allocateLayers(windows);
  (layers[0] as Layer).rows[0] = 0;
  for (const [index, options] of devices.entries()) {
    extend(problem, layers[index] as Layer, options, layers[index + 1] as Layer);
  }
  // The last window is the one cell of the complete sums.
  const complete = (layers.at(-1) as Layer).rows[0] as number;
  return complete < problem.vocabRows ? null : trace(problem, layers, devices);
}
