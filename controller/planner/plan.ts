import type { PlanInput, PlanOutput } from '../../proto/domain/plan.ts';
import { assemble } from './assemble.ts';
import { targetReport } from './batch-search.ts';
import { type Candidate, candidateOf } from './evaluate.ts';
import { misfitReason, noSplitReason } from './infeasible-reason.ts';
import { parsePlanInput } from './parse-plan-input.ts';
import { memorySplit } from './policies/memory.ts';
import type { Problem } from './problem.ts';
import { settleLoans } from './settle-loans.ts';
import { solveWorkload } from './solve-workload.ts';
import { unusedFieldWarnings } from './unused-fields.ts';

/** Of a decode step, on the rank that moves for longest. */
function moveSecondsOf({ devices }: Problem, { counts }: Candidate): number {
  const seconds = devices.map(
    ({ evictionPerHeadGroup }, index) => evictionPerHeadGroup * (counts.headGroups[index] ?? 0),
  );
  return Math.max(...seconds);
}

/**
 * Computes a plan (design section 6). Pure: the same input gives the same plan; `nowMs`, monotonic, only times the solver. An infeasible answer
 * carries the split that comes closest (`memory`'s when no split fits) and a reason. Throws config-invalid for bad input.
 */
export function plan(unchecked: PlanInput, nowMs: () => number): PlanOutput {
  const input = parsePlanInput(unchecked);
  const startMs = nowMs();
  const policy = input.policy ?? 'hels';
  const { problem, solved, residentSequences } = solveWorkload(input, policy);
  const { best, proven, iterations, fitsWithoutLoans } = solved;
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
    ...(residentSequences === null
      ? {}
      : { eviction: { residentSequences, moveSeconds: moveSecondsOf(problem, candidate) } }),
    solver: { iterations, milliseconds },
    ...(targets === null ? {} : { targets }),
    ...(warnings.length === 0 ? {} : { warnings }),
  };
}
