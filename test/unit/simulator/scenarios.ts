import { plan } from '../../../controller/planner/plan.ts';
import type { SimulationReport } from '../../../controller/simulator/report.ts';
import {
  type SimulationOptions,
  simulate as simulateAll,
} from '../../../controller/simulator/simulate.ts';
import type { Arrival } from '../../../controller/simulator/trace/arrival.ts';
import type { PlanDevice, PlanInput } from '../../../proto/domain/plan.ts';
import { smallInput } from '../planner/inputs.ts';

const frozen = (): number => 0;

/** A simulation of the small model: blocks of 4 tokens, 8 tokens a step, 4 sequences, no service level that binds. */
export function scenario(
  devices: PlanDevice[],
  trace: readonly Arrival[],
  overrides: Partial<SimulationOptions> & { policy?: PlanInput['policy'] } = {},
): SimulationOptions {
  const { policy = 'equal', ...rest } = overrides;
  const input = smallInput(devices, { policy });
  return {
    input,
    plan: plan(input, frozen),
    trace,
    limits: {
      kvBlockTokens: 4,
      stepTokensMax: 8,
      sequencesMax: 4,
      contextTokensMax: 64,
      waitingMax: 1000,
    },
    serviceLevel: { ttftSeconds: 1e9, tpotSeconds: 1e9 },
    seed: 1,
    ...rest,
  };
}

export const arrival = (
  atSeconds: number,
  promptTokens: number,
  outputTokens: number,
): Arrival => ({
  atSeconds,
  promptTokens,
  outputTokens,
});

export const simulate = (options: SimulationOptions): SimulationReport =>
  simulateAll(options).report;
