import { describe, expect, test } from 'vitest';
import type { Golden } from '../../../worker/tools/golden.ts';
import { compareLogits, makeReport, matchGreedy } from '../../../worker/tools/verify.ts';
import { modelSpec } from '../../support/model-spec.ts';

const row = (...values: number[]) => Float32Array.from(values);

function goldenOf(tokens: number[], margins: number[] | null): Golden {
  return {
    file: 'golden.json',
    inputIds: [1, 2],
    logitsFromPosition: 0,
    logits: [
      [1, -8],
      [0.5, 2],
    ],
    greedy: { prompt: [1], tokens, margins },
  };
}

describe('compareLogits', () => {
  test('the largest difference and the largest logit of the reference, signs apart', () => {
    const rows = [row(1, -7.5), row(0.25, 2)];
    expect(compareLogits(rows, goldenOf([1], null).logits)).toEqual({
      maxDifference: 0.5,
      maxLogit: 8,
    });
  });

  test.each([
    ['a row that is missing', [row(1, -8)]],
    ['a row that is short', [row(1, -8), row(0.5)]],
    ['a logit that is no number', [row(1, Number.NaN), row(0.5, 2)]],
  ])('%s passes no tolerance', (_, rows) => {
    expect(compareLogits(rows, goldenOf([1], null).logits).maxDifference).toBeNaN();
  });
});

describe('matchGreedy', () => {
  test('the same tokens match with and without margins', () => {
    expect(matchGreedy([3, 4], goldenOf([3, 4], null), 0.1)).toBe(true);
    expect(matchGreedy([3, 4], goldenOf([3, 4], [5, 5]), 0.1)).toBe(true);
  });

  test('another token is excused only where the reference was undecided, with all that follows', () => {
    expect(matchGreedy([3, 9, 9], goldenOf([3, 4, 5], [5, 0.1, 5]), 0.1)).toBe(true);
    expect(matchGreedy([3, 9, 9], goldenOf([3, 4, 5], [5, 0.2, 0.1]), 0.1)).toBe(false);
    expect(matchGreedy([3, 9, 9], goldenOf([3, 4, 5], null), 0.1)).toBe(false);
    expect(matchGreedy([3], goldenOf([3, 4], [5, 5]), 0.1)).toBe(false);
  });
});

describe('makeReport', () => {
  const rows = [row(1, -8), row(0.5, 2)];
  const report = (weightType: 'f32' | 'bf16', tokens: number[], computed = rows) =>
    makeReport({
      golden: goldenOf([3], null),
      model: modelSpec({ weightType }),
      shards: [],
      rows: computed,
      tokens,
      reports: [],
      corrupt: null,
    });

  test('tolerance by weight type', () => {
    expect(report('f32', [3])).toMatchObject({ tolerance: 8 * 2e-4, passed: true });
    expect(report('bf16', [3])).toMatchObject({ tolerance: 8 * 2e-2, passed: true });
    const off = [row(1, -8.125), row(0.5, 2)];
    expect(report('f32', [3], off)).toMatchObject({ maxDifference: 0.125, passed: false });
    expect(report('bf16', [3], off)).toMatchObject({ maxDifference: 0.125, passed: true });
  });

  test('other greedy tokens fail f32 only', () => {
    expect(report('f32', [4])).toMatchObject({ greedyMatch: false, passed: false });
    expect(report('bf16', [4])).toMatchObject({ greedyMatch: false, passed: true });
  });

  test('one bit of one logit changes the hash', () => {
    const next = [row(1, -8), row(0.5, 2)];
    new Uint32Array(next[1]!.buffer)[1]! ^= 1;
    expect(report('f32', [3], next).logitsSha256).not.toBe(report('f32', [3]).logitsSha256);
    expect(report('f32', [3]).logitsSha256).toBe(
      '39a7b40432dee5f09ec1ec3ad7c50ce8d12cac2537f95945bcda4e16ec517de8',
    );
  });
});
