import { expect, test } from 'vitest';
import { divergenceOf } from '../../../worker/tools/divergence.ts';

test('nothing between equal rows, shifted or not', () => {
  const same = divergenceOf([[1, 2, 3]], [[11, 12, 13]]);
  expect(same.klMean).toBeCloseTo(0, 12);
  expect(same.topTokenAgreement).toBe(1);
});

test('of known distributions', () => {
  // 1/2 and 1/2 against 1/4 and 3/4.
  const { klMean, klMax, topTokenAgreement } = divergenceOf(
    [
      [0, 0],
      [0, 0],
    ],
    [
      [0, Math.log(3)],
      [5, 5],
    ],
  );
  const expected = 0.5 * Math.log(2) + 0.5 * Math.log(2 / 3);
  expect(klMax).toBeCloseTo(expected, 12);
  expect(klMean).toBeCloseTo(expected / 2, 12);
  expect(topTokenAgreement).toBe(0.5);
});

test('a value that is not a number, or a missing row, is not close', () => {
  expect(divergenceOf([[1, 2]], [[1, Number.NaN]]).klMean).toBeNaN();
  expect(divergenceOf([[1, 2]], []).klMean).toBeNaN();
});
