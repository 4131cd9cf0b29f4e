import { expect, test } from 'vitest';
import { planFromCounts } from '../../../controller/planner/plan-from-counts.ts';
import { device, smallInput } from './inputs.ts';

const input = smallInput([
  device('a', { perHeadGroup: 1 }),
  device('b', { perFfnColumn: 1 }),
  device('c', {}),
]);

test('heads as given, columns and rows by weight, devices without anything left out', () => {
  const manual = planFromCounts(input, { headGroups: [4, 0, 0], ffnWeights: [1, 3, 0] });
  expect(manual.feasible).toBe(true);
  expect(manual.ranks.map(({ device: id }) => id)).toEqual(['a', 'b']);
  expect(manual.ranks.map(({ ffnColumns }) => ffnColumns)).toEqual([
    [0, 4],
    [4, 16],
  ]);
  expect(manual.ranks.map(({ vocabRows }) => vocabRows)).toEqual([
    [0, 3],
    [3, 10],
  ]);
  expect(manual.predicted.perRankSeconds).toEqual([4, 12]);
});

test('a rank may have heads and no columns', () => {
  const { ranks } = planFromCounts(input, { headGroups: [1, 1, 2], ffnWeights: [1, 1, 0] });
  expect(ranks[2]).toMatchObject({ headGroups: [2, 4], ffnColumns: [16, 16], kvShare: 0.5 });
});

test.each([
  [{ headGroups: [4, 0], ffnWeights: [1, 1, 1] }, 'headGroups has 2 entries'],
  [{ headGroups: [4, 1, 0], ffnWeights: [1, 1, 1] }, 'headGroups sum to 5; the model has 4'],
  [{ headGroups: [5, -1, 0], ffnWeights: [1, 1, 1] }, 'headGroups[1] is -1'],
  [{ headGroups: [4, 0, 0], ffnWeights: [1, Number.NaN, 1] }, 'ffnWeights[1] is NaN'],
  [{ headGroups: [4, 0, 0], ffnWeights: [0, 0, 0] }, 'ffnWeights are all 0'],
])('%j is refused', (split, message) => {
  expect(() => planFromCounts(input, split)).toThrow(message);
});
