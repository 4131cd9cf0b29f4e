import { describe, expect, test } from 'vitest';
import { ffnGranuleOf } from '../../../proto/domain/model-config.ts';
import { apportion, parseRanks, splitModel } from '../../../worker/tools/split.ts';
import { modelSpec } from '../../support/model-spec.ts';

const range = (begin: number, end: number) => ({ begin, end });

describe('parseRanks', () => {
  test('reads head groups and weights', () => {
    expect(parseRanks('2/1.5, 0/3,4/0')).toEqual([
      { headGroups: 2, ffnWeight: 1.5 },
      { headGroups: 0, ffnWeight: 3 },
      { headGroups: 4, ffnWeight: 0 },
    ]);
  });

  test.each(['', '1', '1/', '/1', '-1/1', '1/-1', '1.5/1', '1/1,', '1/1;1/1', '1/1e3'])(
    'refuses %j',
    (text) => {
      expect(() => parseRanks(text)).toThrow(/is not h\/w/);
    },
  );

  test('refuses more ranks than one process runs', () => {
    expect(() => parseRanks(Array(65).fill('1/1').join(','))).toThrow(/has 65 entries; at most 64/);
  });
});

describe('apportion', () => {
  test.each([
    [10, [1, 1], [5, 5]],
    [14, [1, 3], [4, 10]], // 3.5 and 10.5: the tie goes to the lower index
    [7, [0, 1], [0, 7]],
    [3, [1, 1, 1, 1], [1, 1, 1, 0]],
    [0, [1, 2], [0, 0]],
  ])('%i by %j', (units, weights, counts) => {
    expect(apportion(units, weights)).toEqual(counts);
  });
});

describe('splitModel', () => {
  test('the last granule may be short; ranges follow each other', () => {
    const model = modelSpec({ headGroups: 4, ffnColumns: 100, ffnGranule: 8, vocabRows: 10 });
    expect(splitModel(model, parseRanks('1/1,0/0,3/1'))).toEqual([
      {
        rank: 0,
        ranks: 3,
        headGroups: range(0, 1),
        ffnColumns: range(0, 56),
        vocabRows: range(0, 5),
      },
      {
        rank: 1,
        ranks: 3,
        headGroups: range(1, 1),
        ffnColumns: range(56, 56),
        vocabRows: range(5, 5),
      },
      {
        rank: 2,
        ranks: 3,
        headGroups: range(1, 4),
        ffnColumns: range(56, 100),
        vocabRows: range(5, 10),
      },
    ]);
  });

  test('refuses other head groups than the model has, and no FFN weight at all', () => {
    const model = modelSpec({ headGroups: 4 });
    expect(() => splitModel(model, parseRanks('1/1,2/1'))).toThrow(
      '--ranks has 3 head groups in all (1 + 2); the model has 4',
    );
    expect(() => splitModel(model, parseRanks('4/0'))).toThrow(/every rank the FFN weight 0/);
  });
});

test.each([
  [11_008, 688],
  [112, 8],
  [100, 8],
  [130, 16],
  [1, 8],
])('%i FFN columns have granules of %i: at most 16, multiples of 8', (columns, granule) => {
  expect(ffnGranuleOf(columns)).toBe(granule);
  expect(Math.ceil(columns / granule)).toBeLessThanOrEqual(16);
});
