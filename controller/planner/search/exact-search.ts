import { better, type Candidate, candidateOf } from '../evaluate.ts';
import type { Problem } from '../problem.ts';
import { balanceRows } from './balance-rows.ts';
import { splitOf } from './exact-oracle.ts';
import { optionsBetween } from './options.ts';
import { Pruning } from './pruning.ts';
import { reachWithin } from './reach.ts';
import { sumsFloor } from './sums.ts';
import { type Corridor, type Window, windowsOf, windowsWork } from './windows.ts';

export interface ExactSearch {
  /** The fastest split found, at least as fast as the one given; null when none is feasible. */
  readonly best: Candidate | null;
  /** The lower end of the bisection: no split over two or more devices (within the corridor, if there is one) is faster. */
  readonly floorSeconds: number;
  /** False: `workMax` ran out, or would have, before the bisection was as narrow as asked for. */
  readonly finished: boolean;
  readonly iterations: number;
}

export interface ExactBounds {
  /** A lower bound of the step time of splits over two or more devices; 0: none is known yet. */
  readonly floorSeconds: number;
  /** An upper bound of the step time of every split. */
  readonly ceilingSeconds: number;
  /** Relative width at which the bisection ends. */
  readonly width: number;
  /** Cell updates of the dynamic programme in all. */
  readonly workMax: number;
  /** Where to look; null = everywhere. */
  readonly corridor: Corridor | null;
}

/** First step from the lower bound upwards, relative; it squares with every miss. */
const firstStep = 1.1;

/** Calls of the oracle until a search from a fair lower bound is done. */
const probesExpected = 6;

/** Relative gap to the lower bound from which a hit is followed by an attempt to prove it. */
const proofGap = 0.01;

/** The next step time to try; `proofWidth` asks for one just below the best split. */
function nextSeconds(
  low: number,
  high: number,
  step: number,
  known: boolean,
  proofWidth: number | null,
): number {
  if (proofWidth !== null) return high * (1 - proofWidth);
  const halfway = (low + high) / 2;
  const above = low > 0 ? low * step : halfway;
  // Without a known split the upper end is no more than a guess: it is tried, not approached.
  return Math.min(above, known ? halfway : high);
}

/**
 * Bisection of the step time between `floorSeconds` and the best known split with the exact oracle. Each hit tightens the upper end
 * to the time the found split really takes. The oracle costs less the shorter the time, so the search comes from below. Splits over
 * two or more devices only: single devices pay no link and are the caller's candidates.
 */
export function searchExactly(
  problem: Problem,
  known: Candidate | null,
  bounds: ExactBounds,
): ExactSearch {
  let best = better(known, null);
  let low = bounds.floorSeconds;
  let workLeft = bounds.workMax;
  let iterations = 0;
  const pruning = new Pruning(problem);
  const high = (): number => best?.evaluation.decodeSeconds ?? bounds.ceilingSeconds;
  /** Whether a split meets the time. Null: too much work to tell. */
  const probe = (seconds: number): boolean | null => {
    const reaches = reachWithin(problem, seconds, workLeft);
    if (reaches === null) return null;
    iterations += 1;
    const windows = windowsOf(problem, reaches, bounds.corridor);
    const work = windowsWork(reaches, windows);
    // Near the lower bound the oracle is at its cheapest: what that leaves no room to repeat is not worth starting.
    const expected = iterations === 1 ? probesExpected * work : work;
    if (expected > workLeft) return null;
    workLeft -= work;
    const options = reaches.map((reach, index) =>
      optionsBetween(problem, reach, windows[index] as Window, windows[index + 1] as Window),
    );
    const promising = pruning.promising(options);
    const counts = promising === null ? null : splitOf(problem, promising, windows);
    if (counts === null) return false;
    best = better(best, balanceRows(problem, candidateOf(problem, counts)));
    return true;
  };
  if (low === 0) {
    const sums = sumsFloor(problem, high());
    if (best === null && !sums.possible) {
      return { best, floorSeconds: high(), finished: true, iterations };
    }
    low = sums.floorSeconds;
  }
  let step = firstStep;
  let found: boolean | null = true;
  let proofDue = false;
  while (found !== null && high() - low > bounds.width * high()) {
    const seconds = nextSeconds(low, high(), step, best !== null, proofDue ? bounds.width : null);
    found = probe(seconds);
    // A miss just below the best split ends the search at once: worth a try after each hit near the lower bound.
    proofDue = found === true && !proofDue && high() - low < proofGap * high();
    if (found === false) {
      low = seconds;
      step *= step;
    }
  }
  return { best, floorSeconds: low, finished: found !== null, iterations };
}
