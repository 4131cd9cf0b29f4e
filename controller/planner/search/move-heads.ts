import { better, type Candidate } from '../evaluate.ts';
import type { Problem } from '../problem.ts';
import { capacitiesWithin } from './capacity.ts';
import { fastestFill, fillHeads } from './fill-heads.ts';

/** Relative gain below which a move is not worth a step. */
const gainMin = 1e-5;

export interface MoveLimits {
  /** A proven lower bound of the step time. */
  readonly floorSeconds: number;
  /** Refills that may be tried. */
  readonly probesMax: number;
}

/** Heads after every move of one group between two devices: slow givers and fast takers first. */
function* headMoves(candidate: Candidate): Generator<readonly number[]> {
  const { deviceSeconds } = candidate.evaluation;
  const { headGroups } = candidate.counts;
  const order = [...deviceSeconds.keys()].sort(
    (left, right) => (deviceSeconds[right] as number) - (deviceSeconds[left] as number),
  );
  for (const from of order) {
    if ((headGroups[from] ?? 0) === 0) continue;
    for (const to of order.toReversed()) {
      if (to === from) continue;
      yield headGroups.map((count, index) => count - Number(index === from) + Number(index === to));
    }
  }
}

/**
 * Integer repair: moves one head group at a time, refills FFN columns and rows, and keeps what is faster, until no move helps or
 * `probesMax` refills are spent.
 */
export function moveHeads(
  problem: Problem,
  start: Candidate,
  limits: MoveLimits,
): { best: Candidate; probes: number } {
  const { floorSeconds, probesMax } = limits;
  let probes = 0;
  const probe = (): void => {
    probes += 1;
  };
  const improve = (current: Candidate): Candidate | null => {
    const ceilingSeconds = current.evaluation.decodeSeconds * (1 - gainMin);
    const capacities = capacitiesWithin(problem, ceilingSeconds);
    for (const heads of headMoves(current)) {
      if (probes >= probesMax) return null;
      probe();
      if (fillHeads(problem, capacities, heads) === null) continue;
      const next = fastestFill(problem, heads, { floorSeconds, ceilingSeconds }, probe);
      if (better(current, next) !== current) return next;
    }
    return null;
  };
  let best = start;
  while (best.evaluation.decodeSeconds > floorSeconds * (1 + gainMin)) {
    const next = improve(best);
    if (next === null) break;
    best = next;
  }
  return { best, probes };
}
