import { better, type Candidate, candidateOf } from '../evaluate.ts';
import { type Counts, formulaProblem, type Problem } from '../problem.ts';
import { Capacities } from '../search/capacity.ts';
import { searchExactly } from '../search/exact-search.ts';
import { fastestFill } from '../search/fill-heads.ts';
import { relaxHeads } from '../search/head-relaxation.ts';
import { moveHeads } from '../search/move-heads.ts';
import { bestSingleDevice, slowestSeconds } from '../search/starting-points.ts';
import type { Corridor } from '../search/windows.ts';
import { computeSplit } from './compute.ts';
import { equalSplit } from './equal.ts';
import { memorySplit } from './memory.ts';
import { stepwiseSplit } from './stepwise.ts';

/** Limits of one run; they bound its time, not its memory. */
export interface HelsLimits {
  /** Relative width of the relaxation's bisection. */
  readonly relaxationWidth: number;
  /** Relaxed heads that are filled. */
  readonly startsMax: number;
  /** Device visits (refills times devices) of the integer repair. */
  readonly repairVisitsMax: number;
  /** Cell updates of the complete search, and again of the search in the corridor. */
  readonly exactWorkMax: number;
  /** Relative gap to the proven lower bound at which the search ends. */
  readonly gap: number;
  /** Relative gap with which a complete search that ran out of work is still the answer. */
  readonly goodGap: number;
  /** Heads and granules by which the running sums of the corridor search may differ from the best known split. */
  readonly corridorRadius: number;
}

export const helsLimits: HelsLimits = {
  relaxationWidth: 5e-3,
  startsMax: 3,
  repairVisitsMax: 6400,
  exactWorkMax: 4e6,
  gap: 1e-7,
  goodGap: 2e-3,
  corridorRadius: 8,
};

export interface Split {
  /** Null: no feasible split was found. */
  readonly best: Candidate | null;
  /** True: the search is complete to its width; with no split, that there is none. */
  readonly proven: boolean;
  readonly iterations: number;
}

interface Relaxed {
  /** Proven: no split over two or more devices is faster. */
  readonly floorSeconds: number;
  /** Different heads of the relaxed optima met on the way, the fastest first. */
  readonly heads: readonly (readonly number[])[];
  readonly iterations: number;
}

/** Bisects the step time of the relaxation from a proven lower bound on. */
function relax(
  problem: Problem,
  knownFloorSeconds: number,
  ceilingSeconds: number,
  width: number,
): Relaxed {
  const bounds = new Capacities(problem);
  const heads = new Map<string, readonly number[]>();
  let iterations = 0;
  let price = problem.vocabRows / (problem.vocabRows + problem.ffnColumns);
  const possibleWithin = (seconds: number): boolean => {
    const relaxation = relaxHeads(problem, bounds, seconds, price);
    iterations += 1;
    price = relaxation.vocabularyPrice;
    if (relaxation.possible && relaxation.heads !== null) {
      heads.set(relaxation.heads.join(), relaxation.heads);
    }
    return relaxation.possible;
  };
  let low = knownFloorSeconds;
  let high = ceilingSeconds;
  if (!possibleWithin(high)) low = high;
  while (high - low > width * high) {
    const middle = (low + high) / 2;
    if (possibleWithin(middle)) high = middle;
    else low = middle;
  }
  return { floorSeconds: low, heads: [...heads.values()].reverse(), iterations };
}

function runningSums(counts: readonly number[]): number[] {
  let sum = 0;
  return [
    0,
    ...counts.map((count) => {
      sum += count;
      return sum;
    }),
  ];
}

function corridorAround(counts: Counts, radius: number): Corridor {
  return {
    heads: runningSums(counts.headGroups),
    granules: runningSums(counts.granules),
    headsRadius: radius,
    granulesRadius: radius,
  };
}

/** The fastest of the baselines and the single devices; null when none is feasible. */
export function bestBaseline(problem: Problem): Candidate | null {
  let best = bestSingleDevice(problem);
  if (problem.devices.length === 1) return best;
  for (const counts of [equalSplit(problem), computeSplit(problem), memorySplit(problem)]) {
    best = better(best, candidateOf(problem, counts));
  }
  const { candidate } = stepwiseSplit(formulaProblem(problem));
  return better(best, problem.lockstep ? candidateOf(problem, candidate.counts) : candidate);
}

/**
 * For inputs too large for the complete search: the relaxation gives a proven lower bound and heads to start from, the fill makes
 * them whole splits, head moves repair the rounding, and the oracle searches a corridor around the best of them.
 */
function searchFromRelaxation(
  problem: Problem,
  known: Candidate | null,
  knownFloorSeconds: number,
  limits: HelsLimits,
): Split {
  const ceilingSeconds = known?.evaluation.decodeSeconds ?? slowestSeconds(problem);
  const relaxed = relax(problem, knownFloorSeconds, ceilingSeconds, limits.relaxationWidth);
  const { floorSeconds } = relaxed;
  let best = known;
  let iterations = relaxed.iterations;
  const probe = (): void => {
    iterations += 1;
  };
  for (const heads of relaxed.heads.slice(0, limits.startsMax)) {
    const ceiling = best?.evaluation.decodeSeconds ?? ceilingSeconds;
    best = better(
      best,
      fastestFill(problem, heads, { floorSeconds, ceilingSeconds: ceiling }, probe),
    );
  }
  if (best === null) return { best, proven: relaxed.heads.length === 0, iterations };
  const probesMax = Math.floor(limits.repairVisitsMax / problem.devices.length);
  const moved = moveHeads(problem, best, { floorSeconds, probesMax });
  const searched = searchExactly(problem, moved.best, {
    floorSeconds,
    ceilingSeconds,
    width: limits.gap,
    workMax: limits.exactWorkMax,
    corridor: corridorAround(moved.best.counts, limits.corridorRadius),
  });
  return {
    best: searched.best,
    proven: false,
    iterations: iterations + moved.probes + searched.iterations,
  };
}

/**
 * Ours: heads, FFN columns and vocabulary rows jointly, within memory, devices left out where they do not help; never slower than a
 * baseline or a single device. The complete search answers as far as `exactWorkMax` reaches: exactly for most clusters, to a small
 * gap for larger ones. Beyond that the relaxation leads. Null when no feasible split was found.
 */
export function helsSplit(problem: Problem, limits: HelsLimits = helsLimits): Split {
  const baseline = bestBaseline(problem);
  if (problem.devices.length === 1) return { best: baseline, proven: true, iterations: 1 };
  const exact = searchExactly(problem, baseline, {
    floorSeconds: 0,
    ceilingSeconds: slowestSeconds(problem),
    width: limits.gap,
    workMax: limits.exactWorkMax,
    corridor: null,
  });
  const { best, floorSeconds, iterations } = exact;
  const seconds = best?.evaluation.decodeSeconds ?? Number.POSITIVE_INFINITY;
  if (exact.finished || seconds - floorSeconds < limits.goodGap * seconds) {
    return { best, proven: exact.finished, iterations };
  }
  const relaxed = searchFromRelaxation(problem, best, floorSeconds, limits);
  return { ...relaxed, iterations: iterations + relaxed.iterations };
}
