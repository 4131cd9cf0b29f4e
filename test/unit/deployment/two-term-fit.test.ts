import { describe, expect, it } from 'vitest';
import {
  factorsOf,
  initialFit,
  observeTerms,
  type TwoTermFit,
  type TwoTerms,
  totalOf,
} from '../../../controller/deployment/two-term-fit.ts';

const fitted = { begun: 1, carried: 1 };

/** What was measured of such a step. */
type Truth = (terms: TwoTerms, step: number) => number;

/** Beginning is predicted as 1 second, and the amounts come in turn. */
function fitOf(amounts: readonly number[], steps: number, truth: Truth): TwoTermFit {
  let fit = initialFit(fitted);
  for (let step = 0; step < steps; step += 1) {
    const terms = { begun: 1, carried: amounts[step % amounts.length] ?? 0 };
    fit = observeTerms(fit, terms, truth(terms, step));
  }
  return fit;
}

describe('a fit of two terms', () => {
  it('believes what was predicted before it has seen anything', () => {
    expect(factorsOf(initialFit(fitted))).toEqual(fitted);
    expect(totalOf({ begun: 2, carried: 3 }, { begun: 0.5, carried: 2 })).toBe(7);
  });

  it('tells what beginning costs from what comes with the amount', () => {
    const fit = fitOf([1, 2, 5], 6, ({ begun, carried }) => 0.25 * begun + 3 * carried);
    const { begun, carried } = factorsOf(fit);
    expect([begun, carried]).toEqual([expect.closeTo(0.25, 9), expect.closeTo(3, 9)]);
  });

  it('has one factor for both while all steps are alike, and none below 0', () => {
    const alike = factorsOf(fitOf([2], 9, () => 6));
    expect(alike).toEqual({ begun: expect.closeTo(2, 9), carried: expect.closeTo(2, 9) });
    const falling = factorsOf(fitOf([1, 2, 3], 9, ({ carried }) => 4 - carried));
    expect(falling.begun).toBeGreaterThan(1);
    expect(falling.carried).toBe(0);
    const rising = factorsOf(fitOf([2, 3, 4], 9, ({ carried }) => 2 * carried - 2));
    expect(rising.begun).toBe(0);
    expect(rising.carried).toBeGreaterThan(1);
    // What is predicted to come with the amount alone stays so.
    const bare = { begun: 0, carried: 1 };
    const alone = observeTerms(initialFit(bare), { begun: 1, carried: 2 }, 6);
    expect(factorsOf(alone)).toEqual({ begun: 0, carried: expect.closeTo(3, 9) });
  });

  it('stays a number where all is believed to lie in a term that a step has not', () => {
    const carriedOnly = fitOf([2, 3, 4], 9, ({ carried }) => 2 * carried - 2);
    const bare = observeTerms(carriedOnly, { begun: 1, carried: 0 }, 1);
    expect(Object.values(factorsOf(bare)).every(Number.isFinite)).toBe(true);
  });

  it('hardly heeds a stall or a step too quick to be true, and follows a change', () => {
    const steady: Truth = ({ begun, carried }) => 2 * begun + carried;
    const stalled: Truth = (terms, step) => (step === 50 ? 100 : 1) * steady(terms, step);
    const foretold = (fit: TwoTermFit) => totalOf({ begun: 1, carried: 2 }, factorsOf(fit)) / 4;
    expect(foretold(fitOf([1, 2, 5], 52, stalled))).toBeLessThan(1.3);
    const quick: Truth = (terms, step) => (step % 12 === 0 ? 1 / 8 : 1) * steady(terms, step);
    expect(foretold(fitOf([1, 2, 5], 200, quick))).toBeGreaterThan(0.8);
    const changed: Truth = (terms, step) => (step < 50 ? 1 : 3) * steady(terms, step);
    const after = factorsOf(fitOf([1, 2, 5], 200, changed));
    expect([after.begun, after.carried]).toEqual([expect.closeTo(6, 2), expect.closeTo(3, 2)]);
  });
});
