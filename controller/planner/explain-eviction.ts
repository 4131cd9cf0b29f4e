import type { PlanInput, PlannedBatch, PlanOutput } from '../../proto/domain/plan.ts';
import { largestBatch } from './batch-search.ts';

/** What evicting costs, and whether a smaller batch is better. */
export interface EvictionExplanation {
  /** Of the workload's KV, what has no room. */
  readonly evictedShare: number;
  /** Of a decode step; null: it is not known what moves take. */
  readonly moveSeconds: number | null;
  /** The largest batch with all its KV resident, planned anew; null: none fits. */
  readonly resident: PlannedBatch | null;
  readonly text: string;
}

const percent = (share: number) => `${(100 * share).toFixed(1)} %`;

/** Null where the workload does not allow eviction, or the plan does not fit. */
export function explainEviction(input: PlanInput, plan: PlanOutput): EvictionExplanation | null {
  const { sequences, contextTokens, allowEviction } = input.workload;
  if (allowEviction !== true || !plan.feasible) return null;
  const { eviction, predicted } = plan;
  const { decodeSeconds, kvTokensTotal } = predicted;
  const evictedShare =
    eviction === undefined
      ? Math.max(0, 1 - kvTokensTotal / (sequences * contextTokens))
      : 1 - eviction.residentSequences / sequences;
  const moveSeconds = evictedShare === 0 ? 0 : (eviction?.moveSeconds ?? null);
  const resident = largestBatch(input, plan.policy);
  const common = { evictedShare, moveSeconds, resident };
  if (evictedShare === 0) return { ...common, text: 'all KV is resident: nothing is evicted' };
  const lacks = `${percent(evictedShare)} of the KV has no room and is evicted`;
  if (moveSeconds === null) {
    return {
      ...common,
      text: `${lacks}; what that costs is not known: give devices[].restore and workload.outputTokens`,
    };
  }
  const costs = `${lacks}, which takes ${(moveSeconds * 1e3).toFixed(2)} ms a step, ${percent(moveSeconds / decodeSeconds)} of it`;
  if (resident === null) return { ...common, text: `${costs}; no batch has all its KV resident` };
  const rate = sequences / decodeSeconds;
  const smaller = `${resident.sequences} sequences, all resident, at ${resident.tokensPerSecond.toFixed(0)} tokens/s`;
  const text =
    resident.tokensPerSecond >= rate
      ? `${costs}; a smaller batch is better: ${smaller}, against ${rate.toFixed(0)}`
      : `${costs}; it pays, if all sequences run all the time: ${rate.toFixed(0)} tokens/s against ${smaller}`;
  return { ...common, text };
}
