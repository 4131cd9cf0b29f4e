import { HelsError } from '../../proto/domain/errors.ts';
import type { PlanInput, PlanOutput } from '../../proto/domain/plan.ts';
import { apportion } from './apportion.ts';
import { assemble } from './assemble.ts';
import { candidateOf, evaluate } from './evaluate.ts';
import { misfitReason } from './infeasible-reason.ts';
import { parsePlanInput } from './parse-plan-input.ts';
import { compileProblem, withoutLoans } from './problem.ts';
import { settleLoans } from './settle-loans.ts';

/** A split given by hand: one entry for each device of the input, in its order. */
export interface ManualSplit {
  /** Head groups of the device; they sum to the model's. */
  readonly headGroups: readonly number[];
  /** Relative weights of the FFN columns (rounded to granules) and, alike, of the vocabulary rows; 0 is legal. */
  readonly ffnWeights: readonly number[];
}

/** A plan without a policy or a solver. */
export type ManualPlan = Pick<
  PlanOutput,
  'feasible' | 'reason' | 'ranks' | 'predicted' | 'kvLoans'
>;

function fail(field: string, message: string): never {
  throw new HelsError('config-invalid', `manual split: ${field} ${message}`, { field });
}

function checkCounts(split: ManualSplit, devices: number, headGroups: number): void {
  for (const [field, values] of Object.entries(split) as [keyof ManualSplit, number[]][]) {
    if (values.length !== devices) {
      fail(
        field,
        `has ${values.length} entries; there must be one for each of the ${devices} devices`,
      );
    }
  }
  const wrongHeads = split.headGroups.findIndex(
    (count) => !(Number.isInteger(count) && count >= 0),
  );
  if (wrongHeads >= 0) {
    fail(
      `headGroups[${wrongHeads}]`,
      `is ${split.headGroups[wrongHeads]}; it must be a whole number from 0 to ${headGroups}`,
    );
  }
  const wrongWeight = split.ffnWeights.findIndex(
    (weight) => !(Number.isFinite(weight) && weight >= 0),
  );
  if (wrongWeight >= 0) {
    fail(
      `ffnWeights[${wrongWeight}]`,
      `is ${split.ffnWeights[wrongWeight]}; it must be a finite number of at least 0`,
    );
  }
  const sum = split.headGroups.reduce((total, count) => total + count, 0);
  if (sum !== headGroups) {
    fail('headGroups', `sum to ${sum}; the model has ${headGroups} head groups to give`);
  }
  if (!split.ffnWeights.some((weight) => weight > 0)) {
    fail('ffnWeights', 'are all 0; at least one device must hold FFN columns');
  }
}

/**
 * The plan of a split given by hand; `input.policy` is ignored. FFN granules and vocabulary rows follow `ffnWeights` by largest
 * remainder. Throws config-invalid when the split is not one of the model.
 */
export function planFromCounts(unchecked: PlanInput, split: ManualSplit): ManualPlan {
  const input = parsePlanInput(unchecked);
  checkCounts(split, input.devices.length, input.model.headGroups);
  const problem = compileProblem(input);
  const counts = {
    headGroups: split.headGroups,
    granules: apportion(problem.granules, split.ffnWeights),
    vocabRows: apportion(problem.vocabRows, split.ffnWeights),
  };
  const fitsWithoutLoans = evaluate(withoutLoans(problem), counts).feasible;
  const candidate = settleLoans(problem, candidateOf(problem, counts), fitsWithoutLoans);
  const { feasible } = candidate.evaluation;
  return {
    feasible,
    ...(feasible ? {} : { reason: misfitReason(problem, candidate) }),
    ...assemble(problem, candidate),
  };
}
