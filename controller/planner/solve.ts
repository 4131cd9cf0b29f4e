import type { PlanPolicy } from '../../proto/domain/plan.ts';
import { candidateOf } from './evaluate.ts';
import { computeSplit } from './policies/compute.ts';
import { equalSplit } from './policies/equal.ts';
import { helsSplit, type Split } from './policies/hels.ts';
import { lockstepSplit } from './policies/lockstep.ts';
import { memorySplit } from './policies/memory.ts';
import { optimalSplit } from './policies/optimal.ts';
import { stepwiseSplit } from './policies/stepwise.ts';
import type { Counts, Problem } from './problem.ts';

const baseline = (problem: Problem, counts: Counts): Split => ({
  best: candidateOf(problem, counts),
  proven: true,
  iterations: 1,
});

const splits: Readonly<Record<PlanPolicy, (problem: Problem) => Split>> = {
  hels: (problem) => (problem.lockstep ? lockstepSplit(problem) : helsSplit(problem)),
  optimal: (problem) => {
    const split = optimalSplit({ ...problem, lockstep: false });
    return split.best === null
      ? split
      : { ...split, best: candidateOf(problem, split.best.counts) };
  },
  stepwise: (problem) => {
    const { candidate, iterations } = stepwiseSplit(problem);
    return { best: candidate, proven: true, iterations };
  },
  compute: (problem) => baseline(problem, computeSplit(problem)),
  memory: (problem) => baseline(problem, memorySplit(problem)),
  equal: (problem) => baseline(problem, equalSplit(problem)),
};

/** The split of a policy. Throws config-invalid when `optimal` is asked for an instance that is too large for it. */
export function solve(problem: Problem, policy: PlanPolicy): Split {
  return splits[policy](problem);
}
