/**
 * Families without reference logits, from config.json and safetensors to logits, against a forward pass in f64. That reference is
 * itself held against the reference logits of the families that have them.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { readGolden } from '../../worker/tools/golden.ts';
import { families, writeFamily } from '../support/family-models.ts';
import { ScratchModels, shortGoldens } from '../support/golden-models.ts';
import { logitsOf, someTokens, splitDirectory } from '../support/local-logits.ts';
import { type ConfigFields, ReferenceModel } from '../support/reference-model.ts';
import { readSafetensors } from '../support/safetensors.ts';

const scratch = new ScratchModels();
afterAll(() => scratch.remove());

/** Largest difference over the largest reference logit. */
function relativeDifference(
  rows: readonly Float32Array[],
  reference: readonly ArrayLike<number>[],
): number {
  expect(rows.map((row) => row.length)).toEqual(reference.map((row) => row.length));
  let difference = 0;
  let largest = 0;
  for (const [at, expected] of reference.entries()) {
    for (let column = 0; column < expected.length; column += 1) {
      difference = Math.max(difference, Math.abs(rows[at]![column]! - expected[column]!));
      largest = Math.max(largest, Math.abs(expected[column]!));
    }
  }
  expect(largest).toBeGreaterThan(0.5);
  return difference / largest;
}

describe('the reference agrees with the reference logits of transformers', () => {
  test.each(shortGoldens.filter(({ name }) => !name.endsWith('-bf16')))('$name', async (model) => {
    const text = readFileSync(join(model.directory, 'config.json'), 'utf8');
    const tensors = readSafetensors(join(model.directory, 'model.safetensors'));
    const reference = new ReferenceModel(JSON.parse(text) as ConfigFields, tensors);
    const { inputIds, logits } = await readGolden(model.golden);
    const rows = reference.logits(inputIds).map((row) => Float32Array.from(row));
    expect(relativeDifference(rows, logits)).toBeLessThan(1e-5);
  });
});

describe('the engine agrees with the reference, on one rank and split', () => {
  test.each(families)('$name', async (family) => {
    const directory = scratch.empty('family');
    const reference = new ReferenceModel(family.config, writeFamily(directory, family, 7));
    const tokens = someTokens(40, 97, 3);
    const expected = reference.logits(tokens);
    const whole = await logitsOf(await splitDirectory(directory, null), tokens);
    expect(relativeDifference(whole, expected)).toBeLessThan(2e-4);
    const split = await logitsOf(await splitDirectory(directory, family.ranks), tokens, 7);
    expect(split).toEqual(whole);
  });
});
