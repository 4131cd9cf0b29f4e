import type { Problem } from '../problem.ts';
import { type Bound, Capacities, type Capacity } from './capacity.ts';

/** Worth of one head group, column and row in a weighted sum. */
interface Weights {
  readonly perHeadGroup: number;
  readonly perColumn: number;
  readonly perRow: number;
}

/** `worth / cost` of the unit that a bound charges least for; a unit of no worth counts nothing, a free one is unlimited. */
function worthPerUnit(bound: Bound, weights: Weights): number {
  const ratio = (worth: number, cost: number): number => (worth === 0 ? 0 : worth / cost);
  return Math.max(
    ratio(weights.perHeadGroup, bound.perHeadGroup),
    ratio(weights.perColumn, bound.perColumn),
    ratio(weights.perRow, bound.perRow),
  );
}

/** An upper bound of the weighted sum that a device can take. */
function worthOf(capacity: Capacity, weights: Weights): number {
  if (capacity.length === 0) return 0;
  let worth = Number.POSITIVE_INFINITY;
  for (const bound of capacity) {
    const perUnit = worthPerUnit(bound, weights);
    // 0 * Infinity is no number: a bound without a limit on the unit does not bind.
    if (perUnit < Number.POSITIVE_INFINITY) worth = Math.min(worth, bound.limit * perUnit);
  }
  return worth;
}

/** All three sums together, weighted by the seconds that they take on average. */
export function meanWeights(problem: Problem): Weights {
  const mean = { perHeadGroup: 0, perColumn: 0, perRow: 0 };
  for (const device of problem.devices) {
    const line = device.decode[0];
    if (line === undefined) continue;
    const whole =
      line.perHeadGroup * problem.headGroups +
      line.perColumn * problem.ffnColumns +
      line.perRow * problem.vocabRows;
    if (whole === 0) continue;
    mean.perHeadGroup += line.perHeadGroup / whole;
    mean.perColumn += line.perColumn / whole;
    mean.perRow += line.perRow / whole;
  }
  return mean;
}

/** The single sums, and all three together. */
function weightings(problem: Problem): Weights[] {
  const none = { perHeadGroup: 0, perColumn: 0, perRow: 0 };
  return [
    { ...none, perHeadGroup: 1 },
    { ...none, perColumn: 1 },
    { ...none, perRow: 1 },
    meanWeights(problem),
  ];
}

/** Relative width of the bisection, and the share of the upper end below which it stops. */
const width = 0.01;
const share = 1e-6;

/**
 * A proven lower bound of the step time of splits over two or more devices, in [0, ceilingSeconds]: the time at which the devices'
 * capacities, each taken as if nothing else used the device, come to the whole. `possible` is false when they do not even at
 * `ceilingSeconds`.
 */
export function sumsFloor(
  problem: Problem,
  ceilingSeconds: number,
): { possible: boolean; floorSeconds: number } {
  const needs = weightings(problem).map((weights) => ({
    weights,
    // A touch below the need: the sums carry rounding.
    need:
      (1 - 1e-9) *
      (weights.perHeadGroup * problem.headGroups +
        weights.perColumn * problem.ffnColumns +
        weights.perRow * problem.vocabRows),
  }));
  const bounds = new Capacities(problem);
  const reachable = (seconds: number): boolean => {
    const capacities = bounds.within(seconds);
    return needs.every(({ weights, need }) => {
      const worth = capacities.reduce((sum, capacity) => sum + worthOf(capacity, weights), 0);
      return worth >= need;
    });
  };
  if (!reachable(ceilingSeconds)) return { possible: false, floorSeconds: ceilingSeconds };
  let low = 0;
  let high = ceilingSeconds;
  while (high - low > width * high && high > share * ceilingSeconds) {
    const middle = (low + high) / 2;
    if (reachable(middle)) high = middle;
    else low = middle;
  }
  return { possible: true, floorSeconds: low };
}
