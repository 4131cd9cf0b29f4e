import { HelsError } from '../../../proto/domain/errors.ts';
import type { Problem } from '../problem.ts';
import { searchExactly } from '../search/exact-search.ts';
import { slowestSeconds } from '../search/starting-points.ts';
import { helsSplit, type Split } from './hels.ts';

/** Cell updates: about a minute on one core. */
const workMax = 2e10;

/** Relative width of the proof. */
const width = 1e-10;

/**
 * The fastest split, proven to a relative 1e-10 by the exact oracle with no corridor: the bisection starts from the trivial bounds
 * (0, and the best known split). Throws config-invalid when the instance is too large.
 */
export function optimalSplit(problem: Problem): Split {
  const known = helsSplit(problem);
  if (problem.devices.length === 1) return known;
  const exact = searchExactly(problem, known.best, {
    floorSeconds: 0,
    ceilingSeconds: slowestSeconds(problem),
    width,
    workMax,
    corridor: null,
  });
  if (!exact.finished) {
    throw new HelsError(
      'config-invalid',
      `plan input: policy optimal is exact and this input is too large for it (${problem.devices.length} devices, ` +
        `${problem.headGroups} head groups, ${problem.granules} FFN granules); use policy hels, or a larger ffnGranule`,
      { field: 'policy' },
    );
  }
  return { best: exact.best, proven: true, iterations: known.iterations + exact.iterations };
}
