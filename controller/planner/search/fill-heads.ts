import type { Candidate } from '../evaluate.ts';
import { candidateOf } from '../evaluate.ts';
import type { Counts, Problem } from '../problem.ts';
import { Capacities, type Capacity, rowsBeside, spreadRows } from './capacity.ts';
import { greedyMerge } from './greedy-merge.ts';

/**
 * FFN granules and vocabulary rows for given heads such that every device stays within its capacity: granules go where they displace
 * the fewest rows, which is exact because a device's rows are concave in its columns. Null when there is no such split. (The last
 * granule counts as a whole one.)
 */
export function fillHeads(
  problem: Problem,
  capacities: readonly Capacity[],
  heads: readonly number[],
): Counts | null {
  const { granuleColumns, vocabRows, ffnColumns } = problem;
  const rowsOf = (device: number, granules: number): number =>
    rowsBeside(
      capacities[device] as Capacity,
      heads[device] as number,
      Math.min(granules * granuleColumns, ffnColumns),
    );
  for (const device of heads.keys()) if (rowsOf(device, 0) < 0) return null;
  const granules = greedyMerge(problem.granules, heads.length, (device, units) => {
    const after = rowsOf(device, units + 1);
    if (after < 0) return Number.POSITIVE_INFINITY;
    // Rows beyond the vocabulary are worth nothing.
    return Math.min(vocabRows, rowsOf(device, units)) - Math.min(vocabRows, after);
  });
  if (granules === null) return null;
  const working = heads.map((count, device) => count > 0 || (granules[device] as number) > 0);
  const rooms = granules.map((count, device) => rowsOf(device, count));
  const rows = spreadRows(vocabRows, rooms, working);
  return rows === null ? null : { headGroups: heads, granules, vocabRows: rows };
}

/** Relative width at which a bisection over the step time ends. */
const bisectionWidth = 1e-6;

/**
 * The fastest fill of given heads that takes at most `ceilingSeconds`; null when there is none. `floorSeconds` is a lower bound of
 * the step time. `probe` counts the tries.
 */
export function fastestFill(
  problem: Problem,
  heads: readonly number[],
  bounds: { floorSeconds: number; ceilingSeconds: number },
  probe: () => void,
): Candidate | null {
  const capacities = new Capacities(problem);
  const fillWithin = (seconds: number): Candidate | null => {
    probe();
    const counts = fillHeads(problem, capacities.within(seconds), heads);
    return counts === null ? null : candidateOf(problem, counts);
  };
  let best = fillWithin(bounds.ceilingSeconds);
  let low = bounds.floorSeconds;
  while (best !== null && best.evaluation.decodeSeconds - low > bisectionWidth * low) {
    const middle = (low + best.evaluation.decodeSeconds) / 2;
    const next = fillWithin(middle);
    if (next === null) low = middle;
    else best = next;
  }
  return best;
}
