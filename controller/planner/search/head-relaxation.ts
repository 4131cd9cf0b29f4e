import type { Problem } from '../problem.ts';
import type { Bound, Capacities, Capacity } from './capacity.ts';
import { greedyMerge } from './greedy-merge.ts';

/** Worth of one FFN column and of one vocabulary row. */
interface Prices {
  readonly perColumn: number;
  readonly perRow: number;
}

/** FFN columns and rows (real numbers) that a device takes beside its heads, and their worth; -1 when the heads do not fit. */
interface Corner {
  worth: number;
  columns: number;
  rows: number;
}

/**
 * Most FFN columns, up to `most`, until which each buys more than the rows that it displaces. The rows beside f columns are the least of the
 * bounds' (limit - perColumn*f)/perRow and of the vocabulary. A bound is steep when a column displaces more than its worth in rows: columns
 * pay until the first steep bound falls below all gentle ones.
 */
function worthwhileColumns(
  problem: Problem,
  capacity: Capacity,
  heads: number,
  most: number,
  prices: Prices,
): number {
  let columns = most;
  // Indexed loops without closures: this runs some hundred thousand times a plan.
  for (let index = 0; index < capacity.length; index += 1) {
    const steep = capacity[index] as Bound;
    if (steep.perColumn * prices.perRow <= steep.perRow * prices.perColumn) continue;
    // A bound without rows is in `most` already.
    if (steep.perRow === 0) continue;
    const steepSlack = steep.limit - steep.perHeadGroup * heads;
    let meet = (steepSlack - steep.perRow * problem.vocabRows) / steep.perColumn;
    for (let other = 0; other < capacity.length; other += 1) {
      const gentle = capacity[other] as Bound;
      if (gentle.perRow === 0) continue;
      if (gentle.perColumn * prices.perRow > gentle.perRow * prices.perColumn) continue;
      const gentleSlack = gentle.limit - gentle.perHeadGroup * heads;
      const slope = steep.perColumn * gentle.perRow - gentle.perColumn * steep.perRow;
      const crossing = (steepSlack * gentle.perRow - gentleSlack * steep.perRow) / slope;
      if (crossing > meet) meet = crossing;
    }
    if (meet < columns) columns = meet;
  }
  return Math.max(0, columns);
}

/** Sets `corner` to what a device with `heads` can take that is worth most: a linear program in two unknowns. */
function solveCorner(
  problem: Problem,
  capacity: Capacity,
  heads: number,
  prices: Prices,
  corner: Corner,
): void {
  corner.worth = -1;
  corner.columns = 0;
  corner.rows = 0;
  if (capacity.length === 0) {
    if (heads === 0) corner.worth = 0;
    return;
  }
  let most = problem.ffnColumns;
  for (let index = 0; index < capacity.length; index += 1) {
    const bound = capacity[index] as Bound;
    const slack = bound.limit - bound.perHeadGroup * heads;
    if (slack < 0) return;
    if (bound.perColumn * most > slack) most = slack / bound.perColumn;
  }
  const columns = worthwhileColumns(problem, capacity, heads, most, prices);
  let rows = problem.vocabRows;
  for (let index = 0; index < capacity.length; index += 1) {
    const bound = capacity[index] as Bound;
    const slack = bound.limit - bound.perHeadGroup * heads - bound.perColumn * columns;
    if (bound.perRow * rows > slack) rows = Math.max(0, slack) / bound.perRow;
  }
  corner.worth = prices.perColumn * columns + prices.perRow * rows;
  corner.columns = columns;
  corner.rows = rows;
}

/** Heads of most worth at fixed prices, with the FFN columns and rows beside them in shares of the whole; null when they do not fit. */
function mergeHeads(
  problem: Problem,
  capacities: readonly Capacity[],
  prices: Prices,
): { heads: readonly number[]; columns: number; rows: number } | null {
  const corner: Corner = { worth: 0, columns: 0, rows: 0 };
  const worthOf = (device: number, count: number): number => {
    solveCorner(problem, capacities[device] as Capacity, count, prices, corner);
    return corner.worth;
  };
  // Marginal costs are asked for in rising order: the corner after one unit is the corner before the next.
  const knownCount = new Int32Array(capacities.length).fill(-1);
  const knownWorth = new Float64Array(capacities.length);
  const heads = greedyMerge(problem.headGroups, capacities.length, (device, count) => {
    const before =
      knownCount[device] === count ? (knownWorth[device] as number) : worthOf(device, count);
    const after = worthOf(device, count + 1);
    knownCount[device] = count + 1;
    knownWorth[device] = after;
    return after < 0 ? Number.POSITIVE_INFINITY : Math.max(0, before - after);
  });
  if (heads === null) return null;
  let columns = 0;
  let rows = 0;
  for (let device = 0; device < heads.length; device += 1) {
    worthOf(device, heads[device] as number);
    columns += corner.columns / problem.ffnColumns;
    rows += corner.rows / problem.vocabRows;
  }
  return { heads, columns, rows };
}

/** The relaxed answer for one step time. */
export interface Relaxation {
  /** False proves that no split, even with fractional FFN columns and rows, meets the step time. */
  readonly possible: boolean;
  /** Heads per device of the relaxed optimum; null when the heads alone do not fit. */
  readonly heads: readonly number[] | null;
  /** Worth of the whole vocabulary beside that of the whole FFN, in [0, 1], at which the bound is tightest. */
  readonly vocabularyPrice: number;
}

const priceStepsMax = 5;

/** First relative step of the price, and its growth until the price is bracketed. */
const priceReach = 0.01;
const priceReachGrowth = 4;

/** Supply of rows and columns differing by less than this share of the whole: the price is good enough. */
const balanced = 0.002;

/**
 * Relaxes the split at one step time: whole heads, fractional columns and rows, and one exchange rate between columns and rows
 * instead of two separate sums (a Lagrangian bound). For a fixed rate a device's worth is concave in its heads, so a greedy merge is
 * exact; the rate is bisected from `firstPrice` on to where the supplies of rows and columns meet, the tightest bound.
 */
export function relaxHeads(
  problem: Problem,
  bounds: Capacities,
  seconds: number,
  firstPrice: number,
): Relaxation {
  const capacities = bounds.within(seconds);
  let low = 0;
  let high = 1;
  let reach = priceReach;
  let vocabularyPrice = firstPrice;
  let heads: readonly number[] | null = null;
  for (let step = 0; step < priceStepsMax; step += 1) {
    const merged = mergeHeads(problem, capacities, {
      perColumn: (1 - vocabularyPrice) / problem.ffnColumns,
      perRow: vocabularyPrice / problem.vocabRows,
    });
    if (merged === null) return { possible: false, heads: null, vocabularyPrice };
    const { columns, rows } = merged;
    heads = merged.heads;
    const worth = (1 - vocabularyPrice) * columns + vocabularyPrice * rows;
    if (worth < 1 - 1e-9) return { possible: false, heads, vocabularyPrice };
    if (Math.abs(rows - columns) < balanced) break;
    // The bound is convex in the price with slope rows - columns: more rows than columns means that rows are priced too high.
    if (rows > columns) high = vocabularyPrice;
    else low = vocabularyPrice;
    // The price moves little from one step time to the next: the other end of the bracket is looked for nearby.
    reach *= priceReachGrowth;
    if (low > 0 && high < 1) vocabularyPrice = (low + high) / 2;
    else if (low > 0) vocabularyPrice = Math.min((low + 1) / 2, low * (1 + reach));
    else vocabularyPrice = Math.max(high / 2, high / (1 + reach));
  }
  return { possible: true, heads, vocabularyPrice };
}
