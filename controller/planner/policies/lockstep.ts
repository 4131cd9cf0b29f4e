import { better, type Candidate, candidateOf } from '../evaluate.ts';
import { formulaProblem, type Problem, type ProblemDevice } from '../problem.ts';
import { phaseSplit, spreadRows, unitSeconds } from '../search/phase-split.ts';
import { bestBaseline, helsSplit, type Split } from './hels.ts';

/** Devices up to which every subset is tried; above it, the fastest k for every k. */
const allSubsetsMax = 8;
/** Devices up to which a head and a granule move together. */
const pairMovesMax = 6;
/** Splits that are repaired, the fastest first, and evaluations of each repair. */
const startsMax = 4;
const repairMax = 10_000;

function* subsets(problem: Problem): Generator<number[]> {
  const { length } = problem.devices;
  if (length <= allSubsetsMax) {
    for (let mask = 1; mask < 2 ** length; mask += 1) {
      yield problem.devices.flatMap((_, index) => ((mask >> index) & 1 ? [index] : []));
    }
    return;
  }
  const slowness = (index: number) => {
    const device = problem.devices[index] as ProblemDevice;
    return (
      unitSeconds(device, 'perHeadGroup') * problem.headGroups +
      unitSeconds(device, 'perColumn') * problem.ffnColumns
    );
  };
  const order = [...problem.devices.keys()].sort((a, b) => slowness(a) - slowness(b));
  for (let count = 1; count <= length; count += 1) yield order.slice(0, count);
}

const moved = (counts: readonly number[], from: number, to: number) =>
  counts.map((count, index) => count - Number(index === from) + Number(index === to));

interface Move {
  readonly headGroups: readonly number[];
  readonly granules: readonly number[];
}

/** Every way to take one unit from a device and give it to another, and to leave all where they are. */
function variants(counts: readonly number[]): (readonly number[])[] {
  const all = [...counts.keys()];
  return [
    counts,
    ...all.flatMap((from) =>
      (counts[from] ?? 0) === 0
        ? []
        : all.filter((to) => to !== from).map((to) => moved(counts, from, to)),
    ),
  ];
}

/** Moves of a head, of a granule, and (of few devices: where memory binds, one often makes room for the other) of one of each. */
function* movesFrom({ counts }: Candidate, devices: number): Generator<Move> {
  const [, ...heads] = variants(counts.headGroups);
  const [, ...columns] = variants(counts.granules);
  for (const headGroups of heads) yield { headGroups, granules: counts.granules };
  for (const granules of columns) yield { headGroups: counts.headGroups, granules };
  if (devices > pairMovesMax) return;
  for (const headGroups of heads) for (const granules of columns) yield { headGroups, granules };
}

/** The candidate after a move, its rows spread anew over the devices in use; null when it does not fit. */
function afterMove(problem: Problem, current: Candidate, move: Move): Candidate | null {
  const { headGroups, granules } = move;
  const members = [...problem.devices.keys()].filter(
    (index) =>
      (headGroups[index] ?? 0) + (granules[index] ?? 0) + (current.counts.vocabRows[index] ?? 0) >
      0,
  );
  const vocabRows = spreadRows(problem, members, headGroups, granules);
  return vocabRows === null ? null : candidateOf(problem, { headGroups, granules, vocabRows });
}

/** Makes single moves while the step gets shorter. */
function repair(problem: Problem, start: Candidate): Candidate {
  let best = start;
  let left = repairMax;
  const improve = (): Candidate | null => {
    for (const move of movesFrom(best, problem.devices.length)) {
      left -= 1;
      if (left < 0) return null;
      const next = afterMove(problem, best, move);
      if (next !== null && better(best, next) === next) return next;
    }
    return null;
  };
  for (let next = improve(); next !== null; next = improve()) best = next;
  return best;
}

/**
 * The split for ranks that meet after every phase: of every subset of the devices, heads, columns and rows each spread to the least
 * maximum of their own seconds (exact for each phase while memory does not bind), beside the baselines and the split for ranks that
 * meet once a step; then repaired by single moves. Null when no feasible split was found.
 */
export function lockstepSplit(problem: Problem): Split {
  const once = helsSplit(formulaProblem(problem));
  const starts = [bestBaseline(problem)];
  if (once.best !== null) starts.push(candidateOf(problem, once.best.counts));
  for (const members of subsets(problem)) {
    for (const headsFirst of [true, false]) {
      const counts = phaseSplit(problem, members, headsFirst);
      if (counts !== null) starts.push(candidateOf(problem, counts));
    }
  }
  const best = starts
    .filter((start): start is Candidate => start?.evaluation.feasible === true)
    .sort((left, right) => left.evaluation.decodeSeconds - right.evaluation.decodeSeconds)
    .slice(0, startsMax)
    .map((start) => repair(problem, start))
    .reduce<Candidate | null>(better, null);
  // Without a split for ranks that meet once a step there is none at all: what fits does not depend on when they meet.
  return {
    best,
    proven: best === null && once.proven,
    iterations: once.iterations + starts.length,
  };
}
