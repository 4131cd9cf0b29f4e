import { describe, expect, test } from 'vitest';
import {
  evaluate,
  fitsMemory,
  kvTokensOf,
  linesSeconds,
  sharesOf,
} from '../../../controller/planner/evaluate.ts';
import { compileProblem, footprintOf } from '../../../controller/planner/problem.ts';
import { weightBytes } from '../../../controller/planner/share-bytes.ts';
import { linesAt } from '../../../controller/planner/step-lines.ts';
import { device, smallInput } from './inputs.ts';

const everyTerm = {
  constant: 1,
  perHeadGroup: 2,
  perFfnColumn: 3,
  perVocabRow: 5,
  perTokenHeadGroup: 7,
  perTokenFfnColumn: 11,
  perTokenVocabRow: 13,
  perContextHeadGroup: 17,
};

const share = { headGroups: 3, ffnColumns: 8, vocabRows: 4 };

describe('the latency line of design section 6', () => {
  test('every term, by hand', () => {
    // T = 2, A = 20: 1 + 2*3 + 3*8 + 5*4 + 7*2*3 + 11*2*8 + 13*2*4 + 17*20*3
    expect(linesSeconds(linesAt(everyTerm, 2, 20), share)).toBe(
      1 + 6 + 24 + 20 + 42 + 176 + 104 + 1020,
    );
  });

  test('absent coefficients are 0 and the maximum over lines counts', () => {
    const lines = linesAt([{ constant: 4 }, { perHeadGroup: 1 }, { perTokenVocabRow: 1 }], 2, 20);
    expect(linesSeconds(lines, share)).toBe(8);
    expect(linesSeconds(lines, { headGroups: 0, ffnColumns: 0, vocabRows: 1 })).toBe(4);
  });

  test('decode runs at T = sequences and A = sequences * context, prefill at one chunk from an empty context', () => {
    const problem = compileProblem(smallInput([device('a', everyTerm)]));
    expect(problem.devices[0]?.decode).toEqual(linesAt(everyTerm, 2, 20));
    // Three tokens attend to 1, 2 and 3 positions.
    expect(problem.devices[0]?.prefill).toEqual(linesAt(everyTerm, 3, 6));
  });
});

describe('memory', () => {
  const problem = compileProblem(
    smallInput([device('a', everyTerm, { memoryBytes: 5000, reservedBytes: 100 })]),
  );

  test('bytes by unit', () => {
    expect(footprintOf(smallInput([]).model)).toEqual({
      fixed: 160,
      perHeadGroup: 512,
      perColumn: 96,
      perRow: 16,
      kvPerTokenHeadGroup: 32,
    });
  });

  test('grouped queries share keys and values: 2*queryHeadsPerGroup + 2 matrices', () => {
    const { model } = smallInput([]);
    expect(footprintOf({ ...model, queryHeadsPerGroup: 4 }).perHeadGroup).toBe(2 * 8 * 4 * 10 * 2);
  });

  test('weights of a share hold the embedding once; an unused device holds nothing', () => {
    expect(weightBytes(problem, share)).toBe(160 + 3 * 512 + 8 * 96 + 4 * 16);
    expect(weightBytes(problem, { headGroups: 0, ffnColumns: 0, vocabRows: 0 })).toBe(0);
  });

  test('KV tokens are what the room beside the weights holds, rounded down', () => {
    const room = 5000 - 100 - (160 + 1536 + 768 + 64);
    const [first] = problem.devices;
    expect(kvTokensOf(problem, first!, share)).toBe(Math.floor(room / 96));
    expect(kvTokensOf(problem, first!, { ...share, headGroups: 0 })).toBeNull();
  });

  test('the resident KV decides to the byte whether a share fits', () => {
    const needed = 160 + 1536 + 768 + 64 + 20 * 32 * 3;
    for (const [memoryBytes, fits] of [
      [needed, true],
      [needed - 1, false],
    ] as const) {
      const { devices, ...rest } = compileProblem(
        smallInput([device('a', everyTerm, { memoryBytes })]),
      );
      expect(fitsMemory({ devices, ...rest }, devices[0]!, share)).toBe(fits);
    }
  });

  test('with eviction one sequence must be resident instead of all', () => {
    const input = smallInput([device('a', everyTerm)]);
    expect(compileProblem(input).residentTokens).toBe(20);
    const evicting = { ...input, workload: { ...input.workload, allowEviction: true } };
    expect(compileProblem(evicting).residentTokens).toBe(10);
  });
});

describe('the step', () => {
  const link = { constant: 100, perToken: 10 };
  const problem = compileProblem(
    smallInput([device('a', { perHeadGroup: 1 }), device('b', { perFfnColumn: 2 })], { link }),
  );
  const one = { headGroups: [4, 0], granules: [4, 0], vocabRows: [10, 0] };
  const both = { headGroups: [4, 0], granules: [0, 4], vocabRows: [10, 0] };

  test('is the slowest used device, link included', () => {
    const { deviceSeconds, decodeSeconds, prefillSeconds } = evaluate(problem, both);
    expect(deviceSeconds).toEqual([4 + 120, 32 + 120]);
    expect(decodeSeconds).toBe(152);
    expect(prefillSeconds).toBe(32 + 130);
  });

  test('has no link on a single device, and an unused device costs nothing', () => {
    expect(evaluate(problem, one).deviceSeconds).toEqual([4, 0]);
  });

  test('a link of the device goes before the default', () => {
    const own = device('a', {}, { link: { constant: 1, perToken: 0 } });
    const [first, second] = compileProblem(smallInput([own, device('b', {})], { link })).devices;
    expect([first?.decodeLink, second?.decodeLink]).toEqual([1, 120]);
  });
});

test('a granule that does not divide the columns leaves a short last one to the last device with columns', () => {
  const { model, ...rest } = smallInput([device('a', {}), device('b', {}), device('c', {})]);
  const problem = compileProblem({ model: { ...model, ffnColumns: 14 }, ...rest });
  const columns = sharesOf(problem, {
    headGroups: [4, 0, 0],
    granules: [1, 3, 0],
    vocabRows: [0, 0, 10],
  }).map(({ ffnColumns }) => ffnColumns);
  expect(problem.granules).toBe(4);
  expect(columns).toEqual([4, 10, 0]);
});
