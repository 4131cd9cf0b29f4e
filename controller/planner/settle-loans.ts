/** How much KV the plan of a split lends: chosen by the planned workload's step (docs/planner.md). Pure. */
import { type Candidate, evaluateShares } from './evaluate.ts';
import type { LoanPlan } from './kv-loans.ts';
import type { Problem } from './problem.ts';
import { chooseLoans } from './remote-kv.ts';

/** A split with the loans of its plan; null: KV lies with its heads. */
export interface Settled extends Candidate {
  readonly loans: LoanPlan | null;
}

/** What room beyond the planned workload may cost its step, where that runs on loans anyway. */
const roomStepFactor = 1.1;

/**
 * `fitsWithoutLoans`: some split of the policy holds the workload without any. Then room for more may cost it nothing; otherwise loans are
 * what it runs on, and a tenth of its step buys room beyond it.
 */
export function settleLoans(
  problem: Problem,
  candidate: Candidate,
  fitsWithoutLoans: boolean,
): Settled {
  const { counts, evaluation } = candidate;
  const { shares, decodeSeconds } = evaluation;
  const secondsWith = (loans: LoanPlan) => evaluateShares(problem, shares, loans).decodeSeconds;
  const secondsMax = decodeSeconds * (fitsWithoutLoans ? 1 : roomStepFactor);
  const loans = chooseLoans(problem, shares, secondsWith, secondsMax);
  if (loans === null) return { ...candidate, loans };
  return { counts, evaluation: evaluateShares(problem, shares, loans), loans };
}
