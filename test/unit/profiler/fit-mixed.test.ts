import { expect, test } from 'vitest';
import { fitLatency } from '../../../controller/profiler/fit-latency.ts';
import { fitMixed } from '../../../controller/profiler/fit-mixed.ts';
import {
  phaseOf,
  predictMixedSeconds,
  predictSeconds,
} from '../../../controller/profiler/latency-terms.ts';
import { profileGrid } from '../../../controller/profiler/profile-grid.ts';
import type { LatencyLine } from '../../../proto/domain/plan.ts';
import { smallModel } from './models.ts';

const decode: LatencyLine[] = [
  { constant: 1e-4, perFfnColumn: 2e-7, perTokenHeadGroup: 4e-6, perTokenFfnColumn: 3e-8 },
];
const prefill: LatencyLine[] = [{ constant: 2e-4, perContextHeadGroup: 9e-9 }];
const perContextHeadGroup = 2e-8;
const grid = profileGrid(smallModel, { kvBytesMax: 2 ** 30, stepTokensMax: 512, sequencesMax: 64 });
const mixed = grid.filter((point) => phaseOf(point) === 'mixed');

test('the cost of the chunk context comes back from mixed points', () => {
  const seconds = mixed.map((point) => predictMixedSeconds(decode, perContextHeadGroup, point));
  const fit = fitMixed(mixed, seconds, decode, prefill);
  expect(fit.perContextHeadGroup / perContextHeadGroup).toBeCloseTo(1, 6);
  expect(fit.heldOut.points).toBeGreaterThan(1);
  expect(fit.heldOut.meanAbsolutePercent).toBeLessThan(1e-6);
  expect(fit.residualSeconds).toHaveLength(mixed.length);
});

test('is never negative when the decode lines alone say too much', () => {
  const seconds = mixed.map((point) => 0.5 * predictMixedSeconds(decode, 0, point));
  expect(fitMixed(mixed, seconds, decode, prefill).perContextHeadGroup).toBe(0);
});

test('without mixed points it is that of prefill', () => {
  const fit = fitMixed([], [], decode, prefill);
  expect(fit.perContextHeadGroup).toBe(9e-9);
  expect(fit.heldOut.points).toBe(0);
});

test('the three phases of a grid are fitted apart', () => {
  const seconds = grid.map((point) => {
    if (phaseOf(point) === 'mixed') return predictMixedSeconds(decode, perContextHeadGroup, point);
    return predictSeconds(point.prefill ? prefill : decode, point);
  });
  const fit = fitLatency(grid, seconds);
  expect(fit.phases.decode.buckets[0]?.tokens).toBe(1);
  expect(fit.phases.decode.heldOut.meanAbsolutePercent).toBeLessThan(0.01);
  expect(fit.phases.prefill.heldOut.meanAbsolutePercent).toBeLessThan(0.01);
  expect(fit.phases.mixed.perContextHeadGroup / perContextHeadGroup).toBeCloseTo(1, 3);
});
