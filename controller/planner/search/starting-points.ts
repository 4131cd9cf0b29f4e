import { type Candidate, candidateOf, fitsMemory, linesSeconds } from '../evaluate.ts';
import type { Problem, Share } from '../problem.ts';

function wholeModel(problem: Problem): Share {
  const { headGroups, ffnColumns, vocabRows } = problem;
  return { headGroups, ffnColumns, vocabRows };
}

/** The fastest device that holds the whole model and its KV alone; null when none does. */
export function bestSingleDevice(problem: Problem): Candidate | null {
  const whole = wholeModel(problem);
  let best = -1;
  let bestSeconds = Number.POSITIVE_INFINITY;
  for (const [index, device] of problem.devices.entries()) {
    const seconds = linesSeconds(device.decode, whole);
    if (seconds < bestSeconds && fitsMemory(problem, device, whole)) {
      best = index;
      bestSeconds = seconds;
    }
  }
  if (best < 0) return null;
  const only = (units: number): number[] =>
    problem.devices.map((_, index) => (index === best ? units : 0));
  return candidateOf(problem, {
    headGroups: only(problem.headGroups),
    granules: only(problem.granules),
    vocabRows: only(problem.vocabRows),
  });
}

/** An upper bound of the step time of every split: the slowest device with the whole model, link included. */
export function slowestSeconds(problem: Problem): number {
  const whole = wholeModel(problem);
  return problem.devices.reduce(
    (slowest, device) => Math.max(slowest, linesSeconds(device.decode, whole) + device.decodeLink),
    0,
  );
}
