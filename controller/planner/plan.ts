import type { PlanInput, PlanOutput, PlanPolicy } from '../../proto/domain/plan.ts';
import { assemble } from './assemble.ts';
import { candidateOf } from './evaluate.ts';
import { misfitReason, noSplitReason } from './infeasible-reason.ts';
import { parsePlanInput } from './parse-plan-input.ts';
import { computeSplit } from './policies/compute.ts';
import { equalSplit } from './policies/equal.ts';
import { helsSplit, type Split } from './policies/hels.ts';
import { memorySplit } from './policies/memory.ts';
import { optimalSplit } from './policies/optimal.ts';
import { stepwiseSplit } from './policies/stepwise.ts';
import { type Counts, compileProblem, type Problem } from './problem.ts';

const baseline = (problem: Problem, counts: Counts): Split => ({
  best: candidateOf(problem, counts),
  proven: true,
  iterations: 1,
});

const splits: Readonly<Record<PlanPolicy, (problem: Problem) => Split>> = {
  hels: (problem) => helsSplit(problem),
  optimal: optimalSplit,
  stepwise: (problem) => {
    const { candidate, iterations } = stepwiseSplit(problem);
    return { best: candidate, proven: true, iterations };
  },
  compute: (problem) => baseline(problem, computeSplit(problem)),
  memory: (problem) => baseline(problem, memorySplit(problem)),
  equal: (problem) => baseline(problem, equalSplit(problem)),
};

/**
 * Computes a plan (design section 6). Pure: the same input gives the same plan; `nowMs`, monotonic, only times the solver. An infeasible answer
 * carries the split that comes closest (`memory`'s when no split fits) and a reason. Throws config-invalid for bad input.
 */
export function plan(unchecked: PlanInput, nowMs: () => number): PlanOutput {
  const input = parsePlanInput(unchecked);
  const startMs = nowMs();
  const policy = input.policy ?? 'hels';
  const problem = compileProblem(input);
  const { best, proven, iterations } = splits[policy](problem);
  const candidate = best ?? candidateOf(problem, memorySplit(problem));
  const { feasible } = candidate.evaluation;
  const reason = best === null ? noSplitReason(problem, proven) : misfitReason(problem, candidate);
  const assembled = assemble(problem, candidate);
  return {
    policy,
    feasible,
    ...(feasible ? {} : { reason }),
    ...assembled,
    solver: { iterations, milliseconds: nowMs() - startMs },
  };
}
