import type { Counts, Problem } from '../problem.ts';

/** `total` units in `parts` parts whose borders are the nearest whole units. */
function equalParts(total: number, parts: number): number[] {
  const border = (index: number): number => Math.round((index * total) / parts);
  return Array.from({ length: parts }, (_, index) => border(index + 1) - border(index));
}

/** vLLM's tensor-parallel split: every device the same, whatever it can do. */
export function equalSplit(problem: Problem): Counts {
  const parts = problem.devices.length;
  return {
    headGroups: equalParts(problem.headGroups, parts),
    granules: equalParts(problem.granules, parts),
    vocabRows: equalParts(problem.vocabRows, parts),
  };
}
