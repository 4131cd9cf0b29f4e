import { HelsError } from '../../proto/domain/errors.ts';
import type { PlanInput, PlannedBatch, PlanOutput, PlanPolicy } from '../../proto/domain/plan.ts';
import { largestBatch } from './batch-search.ts';
import { plan } from './plan.ts';
import { timeToFirstTokenSeconds } from './planned-shares.ts';

/** What one policy gives for a workload. Times are null when its plan is not feasible. */
export interface PolicyForecast {
  readonly policy: PlanPolicy;
  readonly feasible: boolean;
  /** Why not, or why the policy was not computed. */
  readonly reason: string | null;
  /** Time per output token of every sequence: the decode step. */
  readonly timePerOutputTokenSeconds: number | null;
  /** Of a prompt of contextTokens that arrives at an idle group. */
  readonly timeToFirstTokenSeconds: number | null;
  readonly tokensPerSecond: number | null;
  readonly kvTokensTotal: number | null;
  readonly bindingConstraint: PlanOutput['predicted']['bindingConstraint'] | null;
  /** Largest batch at the workload's context, all KV resident; null when not even one sequence fits. */
  readonly largestBatch: PlannedBatch | null;
}

function forecastOf(input: PlanInput, policy: PlanPolicy): PolicyForecast {
  const { workload } = input;
  const output = plan({ ...input, policy }, () => 0);
  const { feasible, predicted } = output;
  return {
    policy,
    feasible,
    reason: output.reason ?? null,
    timePerOutputTokenSeconds: feasible ? predicted.decodeSeconds : null,
    timeToFirstTokenSeconds: feasible
      ? timeToFirstTokenSeconds(input, output, workload.contextTokens)
      : null,
    tokensPerSecond: feasible ? workload.sequences / predicted.decodeSeconds : null,
    kvTokensTotal: predicted.kvTokensTotal,
    bindingConstraint: predicted.bindingConstraint,
    largestBatch: largestBatch(input, policy),
  };
}

/** The cost of each policy side by side. A policy that refuses the input (`optimal` on a large one) is in the list with its reason. */
export function comparePolicies(
  input: PlanInput,
  policies: readonly PlanPolicy[],
): PolicyForecast[] {
  return policies.map((policy) => {
    try {
      return forecastOf(input, policy);
    } catch (error) {
      if (!(error instanceof HelsError) || error.field !== 'policy') throw error;
      return {
        policy,
        feasible: false,
        reason: error.message,
        timePerOutputTokenSeconds: null,
        timeToFirstTokenSeconds: null,
        tokensPerSecond: null,
        kvTokensTotal: null,
        bindingConstraint: null,
        largestBatch: null,
      };
    }
  });
}
