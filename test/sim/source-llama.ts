import { plan } from '../../controller/planner/plan.ts';
import {
  type ClusterSpec,
  clusterPlanInput,
  type DeviceProfiles,
} from '../../controller/profiler/cluster-input.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { PlanPolicy } from '../../proto/domain/plan.ts';

/** The source's table: Llama-2-13b on 2 A100 + 2 P100, seconds per output token by batch; null: out of memory. */
export const batches = [32, 64, 128, 256] as const;
const helsSeconds = [0.035, 0.038, 0.048, 0.079] as const;
export const source = {
  hels: helsSeconds,
  /** The source's own loop, under our latency lines: what its Hels would do. */
  stepwise: helsSeconds,
  equal: [0.0568, 0.0738, null, null],
  compute: [0.0352, 0.039, 0.053, 0.085],
} as const satisfies Partial<Record<PlanPolicy, readonly (number | null)[]>>;
export type SourcePolicy = keyof typeof source;

/** What the source does not say and the baselines' columns are fitted with. */
export interface Assumptions {
  readonly cluster: ClusterSpec;
  readonly contextTokens: number;
}

/** Predicted seconds per output token by batch; null: the split does not fit. */
export function predicted(
  policy: SourcePolicy,
  { cluster, contextTokens }: Assumptions,
  model: ModelSpec,
  profiles: DeviceProfiles,
): (number | null)[] {
  return batches.map((sequences) => {
    const workload = { sequences, contextTokens, prefillChunk: 512, outputTokens: 0 };
    const input = { ...clusterPlanInput(cluster, model, workload, profiles), policy };
    const output = plan(input, () => 0);
    return output.feasible ? output.predicted.decodeSeconds : null;
  });
}

/** Mean absolute percentage error over the baselines' columns; a wrong out-of-memory counts as 100 %. */
export function baselineError(
  assumptions: Assumptions,
  model: ModelSpec,
  profiles: DeviceProfiles,
): number {
  const errors = (['equal', 'compute'] as const).flatMap((policy) =>
    predicted(policy, assumptions, model, profiles).map((ours, index) => {
      const theirs = source[policy][index] ?? null;
      if (ours === null || theirs === null) return ours === theirs ? 0 : 100;
      return 100 * Math.abs(ours / theirs - 1);
    }),
  );
  return errors.reduce((sum, error) => sum + error, 0) / errors.length;
}
