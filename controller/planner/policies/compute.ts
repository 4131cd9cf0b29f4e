import { linesSeconds } from '../evaluate.ts';
import type { Counts, Problem } from '../problem.ts';
import { proportionalCounts } from './proportional.ts';

/** Speed of each device: the inverse of the decode step with the whole model on it, memory and link aside. */
function decodeSpeeds(problem: Problem): number[] {
  const whole = {
    headGroups: problem.headGroups,
    ffnColumns: problem.ffnColumns,
    vocabRows: problem.vocabRows,
  };
  const seconds = problem.devices.map((device) => linesSeconds(device.decode, whole));
  if (!seconds.some((value) => value === 0)) return seconds.map((value) => 1 / value);
  return seconds.map((value) => (value === 0 ? 1 : 0));
}

/** HexGen's split as the source describes it: in proportion to speed; memory only decides whether it is feasible. */
export function computeSplit(problem: Problem): Counts {
  return proportionalCounts(problem, decodeSpeeds(problem));
}
