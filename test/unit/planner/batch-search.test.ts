import { describe, expect, test } from 'vitest';
import { largestBatch } from '../../../controller/planner/batch-search.ts';
import { comparePolicies } from '../../../controller/planner/compare-policies.ts';
import { plan } from '../../../controller/planner/plan.ts';
import { timeToFirstTokenSeconds } from '../../../controller/planner/planned-shares.ts';
import type { PlanInput, PlanWorkload } from '../../../proto/domain/plan.ts';
import { device, smallInput } from './inputs.ts';

const withWorkload = (input: PlanInput, workload: Partial<PlanWorkload>): PlanInput => ({
  ...input,
  workload: { ...input.workload, ...workload },
});

// Alone it holds 160 + 4*512 + 16*96 + 10*16 = 3904 bytes of weights; a sequence of 10 tokens takes 4*32*10 = 1280 of KV.
const one = smallInput([
  device('only', { constant: 1, perTokenHeadGroup: 0.25 }, { memoryBytes: 3904 + 7 * 1280 + 9 }),
]);

describe('largest batch', () => {
  test('is the last one whose KV fits', () => {
    // A step of n sequences takes 1 + n seconds.
    expect(largestBatch(one, 'hels')).toEqual({
      sequences: 7,
      decodeSeconds: 8,
      tokensPerSecond: 7 / 8,
    });
  });

  test('is null when not even one sequence fits', () => {
    const tight = smallInput([device('only', { constant: 1 }, { memoryBytes: 4000 })]);
    expect(largestBatch(tight, 'hels')).toBeNull();
  });

  test('does not depend on the sequences or the eviction of the workload', () => {
    const other = withWorkload(one, { sequences: 50, allowEviction: true });
    expect(largestBatch(other, 'hels')?.sequences).toBe(7);
  });
});

describe('targets', () => {
  test('a plan reports the largest batch within the step and the smallest of the throughput', () => {
    const { targets } = plan(
      withWorkload(one, { stepSecondsMax: 5.5, tokensPerSecondMin: 0.7 }),
      () => 0,
    );
    // 4 sequences take 5 s, 5 take 6 s; 2/3 tokens/s of 2 sequences are too few, 3/4 of 3 enough.
    expect(targets?.stepSecondsMax).toMatchObject({ value: 5.5, largestBatch: { sequences: 4 } });
    expect(targets?.tokensPerSecondMin).toMatchObject({ smallestBatch: { sequences: 3 } });
  });

  test('targets that no batch meets are null, and none are reported when none are asked for', () => {
    const { targets } = plan(
      withWorkload(one, { stepSecondsMax: 1.5, tokensPerSecondMin: 0.9 }),
      () => 0,
    );
    expect(targets?.stepSecondsMax?.largestBatch).toBeNull();
    expect(targets?.tokensPerSecondMin?.smallestBatch).toBeNull();
    expect(plan(one, () => 0)).not.toHaveProperty('targets');
  });

  test('throughput that falls again at the largest batch hides no smaller one', () => {
    // Only the slow device has room for many sequences: the largest batch needs it and is slow.
    const input = smallInput([
      device('fast', { perHeadGroup: 0.25 }, { memoryBytes: 3904 + 3 * 1280 }),
      device('slow', { constant: 100, perHeadGroup: 10 }, { memoryBytes: 3904 + 10 * 1280 }),
    ]);
    const { targets } = plan(withWorkload(input, { tokensPerSecondMin: 2.5 }), () => 0);
    expect(targets?.tokensPerSecondMin?.smallestBatch).toMatchObject({ sequences: 3 });
  });
});

describe('time to first token', () => {
  test('is the sum of the chunks, each at its own context', () => {
    // 10 tokens in chunks of 3, 3, 3, 1: constant 4*1, per context and head group (1+...+10)*4 groups.
    const input = smallInput([device('only', { constant: 1, perContextHeadGroup: 0.25 })]);
    const output = plan(input, () => 0);
    expect(timeToFirstTokenSeconds(input, output, 10)).toBeCloseTo(4 + 55, 9);
    expect(timeToFirstTokenSeconds(input, output, 3)).toBeCloseTo(
      output.predicted.prefillSeconds,
      9,
    );
  });

  test('pays the link of each chunk when more than one device is used', () => {
    const link = { constant: 10, perToken: 1 };
    const input = smallInput(
      [device('a', { perHeadGroup: 100 }), device('b', { perHeadGroup: 100 })],
      { link, policy: 'equal' },
    );
    const output = plan(input, () => 0);
    expect(timeToFirstTokenSeconds(input, output, 4)).toBeCloseTo(2 * 200 + 20 + 4, 9);
  });
});

test('policies side by side: an infeasible one has its reason and no times', () => {
  const input = smallInput([
    device('fast', { perHeadGroup: 1 }),
    device('slow', { perHeadGroup: 3 }, { memoryBytes: 3000 }),
  ]);
  const [hels, equal] = comparePolicies(input, ['hels', 'equal']);
  expect(hels).toMatchObject({ feasible: true, reason: null, timePerOutputTokenSeconds: 3 });
  expect(equal).toMatchObject({ feasible: false, timePerOutputTokenSeconds: null });
  expect(equal?.reason).toContain("kv: device 'slow'");
});
