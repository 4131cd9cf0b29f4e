import { expect, test } from 'vitest';
import { parsePlanInput } from '../../../controller/planner/parse-plan-input.ts';
import { plan } from '../../../controller/planner/plan.ts';
import { fitLatency } from '../../../controller/profiler/fit-latency.ts';
import { predictSeconds } from '../../../controller/profiler/latency-terms.ts';
import { planModel, toPlanInput } from '../../../controller/profiler/plan-input.ts';
import { profileGrid } from '../../../controller/profiler/profile-grid.ts';
import { smallModel } from './models.ts';

test('the shape is that of the model, two bytes for half types, two matrices without a gate', () => {
  expect(planModel(smallModel)).toEqual({
    layers: 4,
    hiddenSize: 256,
    headGroups: 4,
    queryHeadsPerGroup: 2,
    headDim: 32,
    ffnColumns: 688,
    ffnGranule: 43,
    ffnMatrices: 3,
    vocabRows: 2048,
    weightBytesPerParam: 4,
    kvBytesPerElement: 4,
  });
  expect(planModel({ ...smallModel, gatedMlp: false, weightType: 'bf16' })).toMatchObject({
    ffnMatrices: 2,
    weightBytesPerParam: 2,
    kvBytesPerElement: 2,
  });
});

test('from measured seconds to a plan: the device that is three times slower gets less', () => {
  const grid = profileGrid(smallModel, {
    kvBytesMax: 2 ** 26,
    stepTokensMax: 256,
    sequencesMax: 64,
  });
  const line = {
    constant: 1e-4,
    perHeadGroup: 1e-4,
    perFfnColumn: 1e-6,
    perVocabRow: 1e-7,
    perTokenFfnColumn: 1e-8,
  };
  const devices = [1, 3].map((slowness) => {
    const seconds = grid.map((point) => predictSeconds([line], point) * slowness);
    const { decode, prefill } = fitLatency(grid, seconds);
    const link = { constant: 1e-5, perToken: 0 };
    return {
      id: `worker-${slowness}`,
      memoryBytes: 2 ** 30,
      reservedBytes: 2 ** 24,
      decode,
      prefill,
      link,
    };
  });
  const workload = { sequences: 4, contextTokens: 256, prefillChunk: 128, outputTokens: 64 };
  const input = toPlanInput(smallModel, devices, workload, 'hels');
  expect(() => parsePlanInput(input)).not.toThrow();
  const { feasible, ranks } = plan(input, () => 0);
  expect(feasible).toBe(true);
  expect(ranks).toHaveLength(2);
  expect(ranks[0]!.weightBytes).toBeGreaterThan(1.5 * ranks[1]!.weightBytes);
});
