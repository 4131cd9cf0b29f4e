/** Being allowed to lend KV over random clusters: the planned workload's step is never longer for it, and what is promised is there. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { plan } from '../../controller/planner/plan.ts';
import { type PlanInput, planPolicies } from '../../proto/domain/plan.ts';
import { propertyDeadlineMs, propertyRuns } from '../support/property-runs.ts';

const blockTokens = 64;

const device = fc.record({
  slowness: fc.double({ min: 0.3, max: 3, noNaN: true }),
  memory: fc.double({ min: 0.15, max: 2, noNaN: true }),
  latency: fc.double({ min: 0, max: 1e-3, noNaN: true }),
});

const workload = fc.record({
  sequences: fc.integer({ min: 1, max: 24 }),
  contextTokens: fc.oneof(fc.constantFrom(64, 128, 256), fc.integer({ min: 1, max: 300 })),
});

type Load = Pick<PlanInput['workload'], 'sequences' | 'contextTokens'>;

function inputOf(
  devices: readonly { slowness: number; memory: number; latency: number }[],
  load: Load,
  allowRemoteKv: boolean,
): PlanInput {
  const model = {
    ...{ layers: 4, hiddenSize: 64, headGroups: 4, queryHeadsPerGroup: 2, headDim: 16 },
    ...{ ffnColumns: 128, ffnGranule: 32, ffnMatrices: 3, vocabRows: 500 },
    ...{ weightBytesPerParam: 2, kvBytesPerElement: 2 },
  };
  return {
    model,
    workload: { ...load, prefillChunk: 64, outputTokens: 16, allowRemoteKv },
    devices: devices.map(({ slowness, memory, latency }, index) => {
      const decode = {
        constant: 1e-5 * slowness,
        perHeadGroup: 1e-4 * slowness,
        perFfnColumn: 4e-6 * slowness,
        perVocabRow: 1e-7 * slowness,
        perContextHeadGroup: 4e-8 * slowness,
      };
      const link = { constant: latency, perToken: 1e-6 };
      const memoryBytes = Math.round(4e6 * memory);
      return { id: `d${index}`, memoryBytes, reservedBytes: 0, decode, prefill: decode, link };
    }),
    objective: 'lockstep',
  };
}

it(
  'makes no plan slower, whatever the policy, and none feasible whose blocks do not fit',
  () => {
    const seen = { compared: 0, onlyLent: 0, spared: 0 };
    fc.assert(
      fc.property(fc.array(device, { minLength: 2, maxLength: 4 }), workload, (devices, load) => {
        for (const policy of planPolicies) {
          const planned = (allow: boolean) =>
            plan({ ...inputOf(devices, load, allow), policy }, () => 0);
          const without = planned(false);
          const lent = planned(true);
          if (without.feasible) {
            expect(lent.feasible).toBe(true);
            expect(lent.predicted.decodeSeconds).toBeLessThanOrEqual(
              without.predicted.decodeSeconds,
            );
            seen.compared += 1;
            seen.spared += Number((lent.kvLoans ?? []).length > 0);
          }
          if (!lent.feasible || lent.kvLoans === undefined) continue;
          const blocks = load.sequences * Math.ceil(load.contextTokens / blockTokens);
          expect(lent.predicted.kvTokensTotal).toBeGreaterThanOrEqual(blocks * blockTokens);
          seen.onlyLent += Number(!without.feasible);
        }
      }),
      { numRuns: propertyRuns(60) },
    );
    expect(Math.min(...Object.values(seen))).toBeGreaterThan(10);
  },
  propertyDeadlineMs(60_000),
);
