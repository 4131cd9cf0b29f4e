import { describe, expect, test } from 'vitest';
import { conditionNumber, identify } from '../../../controller/profiler/identify.ts';
import {
  type LoadPoint,
  latencyTerms,
  phaseOf,
  termValues,
} from '../../../controller/profiler/latency-terms.ts';
import { measuringOrder, profileGrid } from '../../../controller/profiler/profile-grid.ts';
import { kvBytesPerToken } from '../../../proto/domain/model-spec.ts';
import { smallModel } from './models.ts';

const limits = { kvBytesMax: 2 ** 30, stepTokensMax: 512, sequencesMax: 64 };
const grid = profileGrid(smallModel, limits);

const phases = (points: readonly LoadPoint[]): LoadPoint[][] => [
  points.filter((point) => phaseOf(point) === 'decode'),
  points.filter((point) => phaseOf(point) === 'prefill'),
];

test.each(['decode', 'prefill'])('the %s points identify every term', (phase) => {
  const points = phases(grid)[phase === 'decode' ? 0 : 1]!;
  const design = points.map(termValues);
  const { kept, dropped } = identify(design);
  expect(dropped).toEqual([]);
  expect(kept).toHaveLength(latencyTerms.length);
  expect(conditionNumber(design, kept)).toBeLessThan(100);
});

test('the grid is short and measures nothing twice', () => {
  expect(grid.length).toBeLessThanOrEqual(120);
  expect(new Set(grid.map((point) => JSON.stringify(point))).size).toBe(grid.length);
});

test('every beginning of the measuring order is spread over all phases', () => {
  const order = measuringOrder(grid.length);
  expect([...order].sort((a, b) => a - b)).toEqual([...grid.keys()]);
  const begun = order.slice(0, Math.ceil(grid.length / 4)).map((index) => phaseOf(grid[index]!));
  for (const phase of ['decode', 'prefill', 'mixed']) {
    const share = grid.filter((point) => phaseOf(point) === phase).length / grid.length;
    expect(begun.filter((other) => other === phase).length / begun.length).toBeGreaterThan(
      share / 2,
    );
  }
});

describe.each([
  ['a small model', smallModel, limits],
  ['few positions', { ...smallModel, maxPositions: 48 }, limits],
  ['one head group, one granule', { ...smallModel, headGroups: 1, ffnGranule: 688 }, limits],
  ['little memory', smallModel, { ...limits, kvBytesMax: 40 * kvBytesPerToken(smallModel, 4) }],
  ['short steps', smallModel, { ...limits, stepTokensMax: 8 }],
  ['many sequences', smallModel, { ...limits, stepTokensMax: 2048, sequencesMax: 1024 }],
])('%s', (_, model, given) => {
  const { kvBytesMax, stepTokensMax } = given;
  const points = profileGrid(model, given);

  test('has both phases', () => {
    for (const phase of phases(points)) expect(phase.length).toBeGreaterThan(3);
  });

  test('stays within the model, its positions, the memory and the step', () => {
    const kvTokensMax = kvBytesMax / kvBytesPerToken(model, model.headGroups);
    for (const point of points) {
      expect(point.tokens).toBeGreaterThanOrEqual(1);
      expect(point.tokens).toBeLessThanOrEqual(stepTokensMax);
      expect(point.headGroups).toBeLessThanOrEqual(model.headGroups);
      expect(point.vocabRows).toBeLessThanOrEqual(model.vocabRows);
      expect(point.ffnColumns).toBeLessThanOrEqual(model.ffnColumns);
      expect(point.ffnColumns % model.ffnGranule).toBe(0);
      if (point.prefill) {
        // The last token of the chunk attends to the whole context.
        const before =
          (point.contextTokens - (point.tokens * (point.tokens + 1)) / 2) / point.tokens;
        expect(Number.isInteger(before)).toBe(true);
        expect(before + point.tokens).toBeLessThanOrEqual(
          Math.min(model.maxPositions, kvTokensMax),
        );
      } else {
        expect(point.contextTokens / point.tokens).toBeLessThanOrEqual(model.maxPositions);
        expect(point.contextTokens).toBeLessThanOrEqual(kvTokensMax);
      }
    }
  });
});

test('without room for one token there is nothing to measure', () => {
  expect(profileGrid(smallModel, { kvBytesMax: 1, stepTokensMax: 512, sequencesMax: 64 })).toEqual(
    [],
  );
});

test('batches and chunks are measured as far as they can be', () => {
  const largest = (given: typeof limits) => {
    const points = profileGrid({ ...smallModel, maxPositions: 4096 }, given);
    const most = (prefill: boolean) =>
      Math.max(...points.filter((one) => one.prefill === prefill).map(({ tokens }) => tokens));
    return [most(false), most(true)];
  };
  expect(largest(limits)).toEqual([64, 512]);
  expect(largest({ ...limits, sequencesMax: 128 })).toEqual([128, 512]);
  expect(largest({ ...limits, stepTokensMax: 2048, sequencesMax: 1024 })).toEqual([256, 1024]);
});
