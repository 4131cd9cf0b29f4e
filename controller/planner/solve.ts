import type { PlanPolicy } from '../../proto/domain/plan.ts';
import { candidateOf } from './evaluate.ts';
import { computeSplit } from './policies/compute.ts';
import { equalSplit } from './policies/equal.ts';
import { helsSplit, type Split } from './policies/hels.ts';
import { lockstepSplit } from './policies/lockstep.ts';
import { memorySplit } from './policies/memory.ts';
import { optimalSplit } from './policies/optimal.ts';
import { stepwiseSplit } from './policies/stepwise.ts';
import { type Counts, formulaProblem, type Problem } from './problem.ts';

const baseline = (problem: Problem, counts: Counts): Split => ({
  best: candidateOf(problem, counts),
  proven: true,
  iterations: 1,
});

/** Splits that are defined by the formula of the step keep it, with the links of all devices; only the prediction is the objective's. */
function byFormula(problem: Problem, split: (problem: Problem) => Split): Split {
  if (!problem.lockstep) return split(problem);
  const found = split(formulaProblem(problem));
  return found.best === null ? found : { ...found, best: candidateOf(problem, found.best.counts) };
}

const splits: Readonly<Record<PlanPolicy, (problem: Problem) => Split>> = {
  hels: (problem) => (problem.lockstep ? lockstepSplit(problem) : helsSplit(problem)),
  optimal: (problem) => byFormula(problem, optimalSplit),
  stepwise: (problem) =>
    byFormula(problem, (formula) => {
      const { candidate, iterations } = stepwiseSplit(formula);
      return { best: candidate, proven: true, iterations };
    }),
  compute: (problem) => baseline(problem, computeSplit(problem)),
  memory: (problem) => baseline(problem, memorySplit(problem)),
  equal: (problem) => baseline(problem, equalSplit(problem)),
};

/** The split of a policy. Throws config-invalid when `optimal` is asked for an instance that is too large for it. */
export function solve(problem: Problem, policy: PlanPolicy): Split {
  return splits[policy](problem);
}
