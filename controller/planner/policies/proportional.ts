import { apportion } from '../apportion.ts';
import type { Counts, Problem } from '../problem.ts';

/** Heads, FFN granules and vocabulary rows all in proportion to `weights`. */
export function proportionalCounts(problem: Problem, weights: readonly number[]): Counts {
  return {
    headGroups: apportion(problem.headGroups, weights),
    granules: apportion(problem.granules, weights),
    vocabRows: apportion(problem.vocabRows, weights),
  };
}
