import type { PlanPolicy } from '../../proto/domain/plan.ts';
import { better, type Candidate, candidateOf } from './evaluate.ts';
import { computeSplit } from './policies/compute.ts';
import { equalSplit } from './policies/equal.ts';
import { helsSplit, type Split } from './policies/hels.ts';
import { lockstepSplit } from './policies/lockstep.ts';
import { memorySplit } from './policies/memory.ts';
import { optimalSplit } from './policies/optimal.ts';
import { stepwiseSplit } from './policies/stepwise.ts';
import { type Counts, formulaProblem, type Problem, withoutLoans } from './problem.ts';

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

/** By policy; `known` is a split to start from. */
const splits: Readonly<Record<PlanPolicy, (problem: Problem, known: Candidate | null) => Split>> = {
  hels: (problem, known) => (problem.lockstep ? lockstepSplit(problem, known) : helsSplit(problem)),
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

export interface Solved extends Split {
  /** The policy has a split that holds the workload with all KV beside its heads. */
  readonly fitsWithoutLoans: boolean;
}

/** The split of a policy. Throws config-invalid when `optimal` is asked for an instance that is too large for it. */
export function solve(problem: Problem, policy: PlanPolicy): Solved {
  if (problem.remote === null) {
    const split = splits[policy](problem, null);
    return { ...split, fitsWithoutLoans: split.best?.evaluation.feasible === true };
  }
  // What fits without loans is a candidate: being allowed to lend makes no plan slower.
  const without = splits[policy](withoutLoans(problem), null);
  const fitsWithoutLoans = without.best?.evaluation.feasible === true;
  const known =
    without.best !== null && fitsWithoutLoans ? candidateOf(problem, without.best.counts) : null;
  const { best, proven, iterations } = splits[policy](problem, known);
  return {
    best: better(known, best) ?? best,
    proven,
    iterations: iterations + without.iterations,
    fitsWithoutLoans,
  };
}
