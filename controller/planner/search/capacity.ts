import type { Problem, ProblemDevice } from '../problem.ts';
import type { StepLine } from '../step-lines.ts';

/** One bound of a device within a step time: perHeadGroup*h + perColumn*f + perRow*v <= limit. Seconds or bytes. */
export interface Bound {
  readonly limit: number;
  readonly perHeadGroup: number;
  readonly perColumn: number;
  readonly perRow: number;
}

/** What a device can hold and compute within one step time; empty = it can't take part at all. */
export type Capacity = readonly Bound[];

/** Room for rounding in `constant + ... <= seconds`, relative. */
const rounding = 1e-12;

const none: Capacity = [];

interface DeviceBounds {
  readonly device: ProblemDevice;
  /** The memory's first, then one per latency line. */
  readonly bounds: (Bound & { limit: number })[];
}

/**
 * The bounds of every device: one for the memory (weights plus resident KV) and one per latency line. Only the limits follow the step time: a
 * search over it moves one set of bounds instead of making many.
 */
export class Capacities {
  readonly #devices: readonly DeviceBounds[];
  readonly #within: Capacity[];

  constructor({ devices, footprint, residentTokens }: Problem) {
    const headBytes = footprint.perHeadGroup + residentTokens * footprint.kvPerTokenHeadGroup;
    this.#within = devices.map(() => none);
    this.#devices = devices.map((device) => ({
      device,
      bounds: [
        {
          limit: device.roomBytes - footprint.fixed,
          perHeadGroup: headBytes,
          perColumn: footprint.perColumn,
          perRow: footprint.perRow,
        },
        ...device.decode.map(({ perHeadGroup, perColumn, perRow }) => ({
          limit: 0,
          perHeadGroup,
          perColumn,
          perRow,
        })),
      ],
    }));
  }

  /**
   * The bounds when a step may take `seconds`, link included; valid until the next call. A device whose fixed costs alone exceed the time or the
   * room gets none.
   */
  within(seconds: number): readonly Capacity[] {
    const most = seconds * (1 + rounding);
    for (let index = 0; index < this.#devices.length; index += 1) {
      const { device, bounds } = this.#devices[index] as DeviceBounds;
      let fits = (bounds[0] as Bound).limit >= 0;
      for (let place = 0; place < device.decode.length; place += 1) {
        const limit = most - (device.decode[place] as StepLine).constant - device.decodeLink;
        (bounds[place + 1] as { limit: number }).limit = limit;
        fits &&= limit >= 0;
      }
      this.#within[index] = fits ? bounds : none;
    }
    return this.#within;
  }
}

/** The bounds of every device for one step time. */
export function capacitiesWithin(problem: Problem, seconds: number): readonly Capacity[] {
  return new Capacities(problem).within(seconds);
}

/**
 * Vocabulary rows (a real number) that still fit beside `heads` and `columns`; negative when even those do not fit; Infinity when
 * nothing bounds the rows.
 */
export function rowsBeside(capacity: Capacity, heads: number, columns: number): number {
  if (capacity.length === 0) return heads === 0 && columns === 0 ? 0 : -1;
  let rows = Number.POSITIVE_INFINITY;
  // The innermost loop of every search: an indexed loop is what an engine that has not warmed up runs fastest.
  for (let index = 0; index < capacity.length; index += 1) {
    const bound = capacity[index] as Bound;
    const slack = bound.limit - bound.perHeadGroup * heads - bound.perColumn * columns;
    if (slack < 0) return -1;
    if (slack < rows * bound.perRow) rows = slack / bound.perRow;
  }
  return rows;
}

/**
 * Whole rows spread over devices within `capacities`, at most `total` in all: first over the devices that work anyway, in proportion
 * to their capacity, then over the others in order. Null when they do not fit.
 */
export function spreadRows(
  total: number,
  capacities: readonly number[],
  working: readonly boolean[],
): number[] | null {
  const room = capacities.map((rows) => Math.min(total, Math.max(0, Math.floor(rows))));
  const workingRoom = room.reduce((sum, rows, index) => sum + (working[index] ? rows : 0), 0);
  const share = workingRoom > 0 ? Math.min(1, total / workingRoom) : 0;
  const counts = room.map((rows, index) => (working[index] ? Math.floor(rows * share) : 0));
  let left = total - counts.reduce((sum, rows) => sum + rows, 0);
  for (const wanted of [true, false]) {
    for (let index = 0; index < room.length && left > 0; index += 1) {
      if (working[index] !== wanted) continue;
      const extra = Math.min(left, (room[index] as number) - (counts[index] as number));
      counts[index] = (counts[index] as number) + extra;
      left -= extra;
    }
  }
  return left === 0 ? counts : null;
}
