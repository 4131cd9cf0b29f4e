import { expect, test } from 'vitest';
import { formatPlan } from '../../../client/helsctl/plan-table.ts';
import type { PlanReport } from '../../../client/sdk/index.ts';

const noMeasurements = {
  measuredSequences: 0,
  predictedDecodeSeconds: 0,
  measuredDecodeSeconds: 0,
};

function reportOf(changes: object): PlanReport {
  const range = { begin: 0, end: 2 };
  const rank = { headGroups: range, ffnColumns: range, vocabRows: range, weightBytes: 1024 };
  const plan = {
    policy: 'hels',
    epoch: 3,
    kvBlocks: 10,
    kvBlockTokens: 64,
    kvParkedBlocks: 0,
    kvLoans: [],
    bindingConstraint: 'kv',
    sequencesMax: 96,
    stepTokensMax: 512,
    ranks: [
      { ...rank, workerId: 'small', kvShare: 0.25 },
      { ...rank, workerId: 'large', kvShare: 0.75 },
    ],
    ...changes,
  };
  return {
    plan,
    ranks: [],
    numericsClass: 'exact',
    differingWorkers: [],
  } as unknown as PlanReport & typeof plan;
}

test('a plan tells how much KV runs, and nothing of what there is not', () => {
  const text = formatPlan({ ...reportOf({}), ...noMeasurements });
  expect(text).toContain('room for 640 tokens of KV, bound by kv');
  expect(text).toContain('at most 96 sequences at once and 512 tokens a step');
  expect(text).not.toMatch(/parked|lies on|other kernels/);
});

test('a plan tells what can be parked and what lies on another worker', () => {
  const kvLoans = [{ owner: 0, holder: 1, blocks: { begin: 4, end: 10 } }];
  const text = formatPlan({ ...reportOf({ kvParkedBlocks: 5, kvLoans }), ...noMeasurements });
  expect(text).toContain('room for 640 tokens of KV and 320 parked');
  expect(text).toContain('KV of 384 tokens for the heads of small lies on large');
});

test('a plan over unequal kernels names the workers that have others', () => {
  const mixed = { numericsClass: 'mixed', differingWorkers: ['small', 'old'] };
  const text = formatPlan({ ...reportOf({}), ...noMeasurements, ...mixed });
  expect(text).toContain('numerics mixed (other kernels on small, old), room for');
});
