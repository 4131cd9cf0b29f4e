import type { PlanInput, PlanOutput, PlanPolicy } from '../../proto/domain/plan.ts';
import type { SimulationReport } from '../simulator/report.ts';

/** One policy of a comparison. */
export interface PolicySimulation {
  readonly policy: PlanPolicy;
  readonly plan: PlanOutput;
  /** null when the plan cannot serve at all; `reason` says why. */
  readonly report: SimulationReport | null;
  readonly reason: string | null;
}

/** What `simulate --json` prints. */
export interface SimulationComparison {
  readonly trace: {
    readonly requests: number;
    readonly seconds: number;
    readonly promptTokens: number;
    readonly outputTokens: number;
  };
  readonly workload: PlanInput['workload'];
  readonly limits: { readonly sequencesMax: number; readonly stepTokensMax: number };
  readonly policies: readonly PolicySimulation[];
}
