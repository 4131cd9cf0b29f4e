import type { PlanInput, PlanOutput } from '../../proto/domain/plan.ts';
import { assemble } from './assemble.ts';
import { targetReport } from './batch-search.ts';
import { candidateOf } from './evaluate.ts';
import { misfitReason, noSplitReason } from './infeasible-reason.ts';
import { parsePlanInput } from './parse-plan-input.ts';
import { memorySplit } from './policies/memory.ts';
import { compileProblem } from './problem.ts';
import { settleLoans } from './settle-loans.ts';
import { solve } from './solve.ts';
import { unusedFieldWarnings } from './unused-fields.ts';

/**
 * Computes a plan (design section 6). Pure: the same input gives the same plan; `nowMs`, monotonic, only times the solver. An infeasible answer
 * carries the split that comes closest (`memory`'s when no split fits) and a reason. Throws config-invalid for bad input.
 */
export function plan(unchecked: PlanInput, nowMs: () => number): PlanOutput {
  const input = parsePlanInput(unchecked);
  const startMs = nowMs();
  const policy = input.policy ?? 'hels';
  const problem = compileProblem(input);
  const { best, proven, iterations, fitsWithoutLoans } = solve(problem, policy);
  const split = best ?? candidateOf(problem, memorySplit(problem));
  const candidate = settleLoans(problem, split, fitsWithoutLoans);
  const { feasible } = candidate.evaluation;
  const reason = best === null ? noSplitReason(problem, proven) : misfitReason(problem, candidate);
  const assembled = assemble(problem, candidate);
  const milliseconds = nowMs() - startMs;
  const targets = targetReport(input, policy);
  const warnings = unusedFieldWarnings(input);
  return {
    policy,
    feasible,
    ...(feasible ? {} : { reason }),
    ...assembled,
    solver: { iterations, milliseconds },
    ...(targets === null ? {} : { targets }),
    ...(warnings.length === 0 ? {} : { warnings }),
  };
}
