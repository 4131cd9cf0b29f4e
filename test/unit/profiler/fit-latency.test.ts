import { describe, expect, test } from 'vitest';
import { fitLatency } from '../../../controller/profiler/fit-latency.ts';
import { fitLink } from '../../../controller/profiler/fit-link.ts';
import { fitPhase } from '../../../controller/profiler/fit-phase.ts';
import {
  type LoadPoint,
  latencyTerms,
  predictSeconds,
} from '../../../controller/profiler/latency-terms.ts';
import { profileGrid } from '../../../controller/profiler/profile-grid.ts';
import type { LatencyLine } from '../../../proto/domain/plan.ts';
import { smallModel } from './models.ts';

const grid = profileGrid(smallModel, { kvBytesMax: 2 ** 30, stepTokensMax: 512, sequencesMax: 64 });
const decodeGrid = grid.filter(({ prefill }) => !prefill);

const truth: LatencyLine = {
  constant: 3e-4,
  perHeadGroup: 8e-5,
  perFfnColumn: 6e-7,
  perVocabRow: 2e-7,
  perTokenHeadGroup: 4e-6,
  perTokenFfnColumn: 3e-8,
  perTokenVocabRow: 1e-8,
  perContextHeadGroup: 5e-8,
};

/** Repeatable noise: factors in [1 - size, 1 + size]. */
function noise(count: number, size: number): number[] {
  let state = 1;
  return Array.from({ length: count }, () => {
    state = (state * 48271) % 2147483647;
    return 1 + size * ((2 * state) / 2147483647 - 1);
  });
}

const secondsOf = (lines: LatencyLine[], points: readonly LoadPoint[], size = 0): number[] => {
  const factors = noise(points.length, size);
  return points.map((point, index) => predictSeconds(lines, point) * factors[index]!);
};

describe('one line', () => {
  test('exact times give the coefficients back', () => {
    const fit = fitPhase(decodeGrid, secondsOf([truth], decodeGrid));
    expect(fit.lines).toHaveLength(1);
    for (const term of latencyTerms) expect(fit.lines[0]![term]! / truth[term]!).toBeCloseTo(1, 6);
    expect(fit.unidentified).toEqual([]);
    expect(fit.heldOut.points).toBeGreaterThan(10);
    expect(fit.heldOut.meanAbsolutePercent).toBeLessThan(1e-4);
  });

  test('5 % of noise leaves held-out points within about as much', () => {
    const fit = fitPhase(decodeGrid, secondsOf([truth], decodeGrid, 0.05));
    expect(fit.heldOut.medianAbsolutePercent).toBeLessThan(5);
    expect(fit.heldOut.percentile95AbsolutePercent).toBeLessThan(10);
    for (const line of fit.lines) {
      for (const term of latencyTerms) expect(line[term] ?? 0).toBeGreaterThanOrEqual(0);
    }
  });

  test('a term that costs nothing is absent, not negative', () => {
    const { perTokenVocabRow: _, ...rest } = truth;
    const fit = fitPhase(decodeGrid, secondsOf([rest], decodeGrid, 0.02));
    expect(fit.lines[0]!.perTokenVocabRow ?? 0).toBeLessThan(2e-9);
  });

  test('residuals are predicted - measured in the order of the points', () => {
    const seconds = secondsOf([truth], decodeGrid, 0.05);
    const fit = fitPhase(decodeGrid, seconds);
    for (const [index, point] of decodeGrid.entries()) {
      expect(fit.residualSeconds[index]).toBe(predictSeconds(fit.lines, point) - seconds[index]!);
    }
  });
});

describe('a roofline', () => {
  const roofline: LatencyLine[] = [
    { constant: 2e-4, perHeadGroup: 4e-4, perFfnColumn: 3e-6, perVocabRow: 5e-7 },
    {
      constant: 1e-4,
      perTokenHeadGroup: 4e-5,
      perTokenFfnColumn: 3e-7,
      perTokenVocabRow: 5e-8,
      perContextHeadGroup: 1e-8,
    },
  ];

  test('gets two lines, because one misses by far more', () => {
    const fit = fitPhase(decodeGrid, secondsOf(roofline, decodeGrid, 0.01));
    expect(fit.lines).toHaveLength(2);
    expect(fit.heldOut.medianAbsolutePercent).toBeLessThan(2);
  });
});

describe('what the points cannot tell', () => {
  test('terms that move together: the earlier one explains both, the later is named and 0', () => {
    const points = [1, 2, 4, 8, 16, 32].map((tokens) => ({
      prefill: false,
      tokens,
      contextTokens: tokens * 10,
      headGroups: 2,
      ffnColumns: 100,
      vocabRows: 0,
    }));
    const fit = fitPhase(points, secondsOf([truth], points));
    expect(fit.unidentified).toEqual([
      'perHeadGroup',
      'perFfnColumn',
      'perVocabRow',
      'perTokenFfnColumn',
      'perTokenVocabRow',
      'perContextHeadGroup',
    ]);
    expect(Object.keys(fit.lines[0]!).sort()).toEqual(['constant', 'perTokenHeadGroup']);
    expect(fit.fitted.meanAbsolutePercent).toBeLessThan(1e-6);
    expect(fit.conditionNumber).toBeGreaterThan(1);
  });

  test('one point gives a constant', () => {
    const fit = fitPhase(decodeGrid.slice(0, 1), [0.5]);
    expect(fit.lines).toEqual([{ constant: 0.5 }]);
    expect(fit.heldOut.points).toBe(0);
  });
});

describe('both phases', () => {
  test('are fitted apart', () => {
    const prefillTruth = { ...truth, perTokenFfnColumn: 9e-8 };
    const seconds = grid.map((point) =>
      predictSeconds([point.prefill ? prefillTruth : truth], point),
    );
    const fit = fitLatency(grid, seconds);
    expect(fit.decode[0]!.perTokenFfnColumn! / 3e-8).toBeCloseTo(1, 4);
    expect(fit.prefill[0]!.perTokenFfnColumn! / 9e-8).toBeCloseTo(1, 4);
    expect(fit.phases.prefill.fitted.points).toBeGreaterThan(20);
  });

  test.each([
    [[0.1, Number.NaN], 'seconds[1] is NaN'],
    [[0.1, 0], 'seconds[1] is 0'],
    [[0.1, -1], 'seconds[1] is -1'],
    [[0.1], '2 points and 1 measured times'],
  ])('times %j are refused', (seconds, message) => {
    expect(() => fitPhase(decodeGrid.slice(0, 2), seconds)).toThrow(message);
  });

  test('a phase without points is refused', () => {
    expect(() => fitLatency(decodeGrid, secondsOf([truth], decodeGrid))).toThrow('0 points');
  });
});

describe('the link', () => {
  test('is a constant and a cost per token', () => {
    const tokens = [1, 4, 16, 64, 256];
    const link = fitLink(
      tokens,
      tokens.map((count) => 1e-4 + 2e-7 * count),
    );
    expect(link.constant / 1e-4).toBeCloseTo(1, 9);
    expect(link.perToken / 2e-7).toBeCloseTo(1, 9);
  });

  test('times that fall with the tokens give no negative slope', () => {
    expect(fitLink([1, 100], [2e-4, 1e-4]).perToken).toBe(0);
  });

  test('one token count gives a constant', () => {
    expect(fitLink([8], [3e-4])).toEqual({ constant: 3e-4, perToken: 0 });
  });

  test.each([
    [[], []],
    [[1], [0]],
    [[1, 2], [1]],
  ])('%j tokens with %j seconds are refused', (tokens, seconds) => {
    expect(() => fitLink(tokens, seconds)).toThrow('link probe');
  });
});
