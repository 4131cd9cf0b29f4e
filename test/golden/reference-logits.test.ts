/** Logits and greedy tokens of every model with reference logits, one rank, weights as the files hold them. */
import { describe, expect, test } from 'vitest';
import { readGolden } from '../../worker/tools/golden.ts';
import { type GoldenModel, longGoldens, shortGoldens } from '../support/golden-models.ts';
import { verify } from '../support/verify.ts';

/** Of the largest reference logit. */
const relativeTolerance = { f32: 2e-4, bf16: 2e-2, f16: 2e-2 };

async function expectReference(model: GoldenModel): Promise<void> {
  const golden = await readGolden(model.golden);
  const largest = golden.logits.flat().reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  const report = await verify(model);
  expect(report.weightType).toBe(model.name.endsWith('-bf16') ? 'bf16' : 'f32');
  expect(report.maxLogit).toBe(largest);
  expect(report.maxDifference).toBeLessThanOrEqual(relativeTolerance[report.weightType] * largest);
  expect(report.greedyTokens).toHaveLength(golden.greedy.tokens.length);
  expect(report.passed).toBe(true);
  if (report.weightType === 'f32') expect(report.greedyTokens).toEqual(golden.greedy.tokens);
}

test('the tree holds a model for every family and flag of its README', () => {
  expect(shortGoldens.map(({ name }) => name).sort()).toEqual([
    'llama-gqa',
    'llama-gqa-bf16',
    'llama-mha-tied',
    'llama3-rope',
    'mistral-swa',
    'opt-pre',
    'qwen2',
  ]);
});

describe('short prompts', () => {
  test.each(shortGoldens)('$name', expectReference);
});

describe('long prompts', () => {
  if (longGoldens === null) test.skip('not there: HELS_SHARED has no goldens/', () => undefined);
  else test.each(longGoldens)('$name', expectReference);
});
