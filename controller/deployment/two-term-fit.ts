/**
 * How far off seconds are that were predicted as a sum of two terms, what beginning costs and what comes with the amount: a factor for each,
 * by least squares of the relative error over the observations so far, which it forgets. A stall of a hundred times the usual has hardly a
 * weight so. Pure: state + measurement -> state.
 */

/** Seconds; either may be 0. */
export interface TwoTerms {
  readonly begun: number;
  readonly carried: number;
}

/** Sums over the observations, each term relative to what was measured. */
export interface TwoTermFit {
  readonly observations: number;
  readonly begun: number;
  readonly carried: number;
  readonly begunSquared: number;
  readonly carriedSquared: number;
  readonly product: number;
}

export const initialFit: TwoTermFit = {
  observations: 0,
  begun: 0,
  carried: 0,
  begunSquared: 0,
  carriedSquared: 0,
  product: 0,
};

/** Of the sums, with each observation. */
const kept = 1 - 1 / 8;
/** Below, relative to what it would be if the terms were independent, the two say the same. */
const determinantMin = 1e-6;

/** What is further off from what is believed is taken to be so far off: a step that was too quick to be true has weight. */
const surpriseMax = 4;

/** `seconds` that were measured are above 0, as one of the terms. */
export function observeTerms(fit: TwoTermFit, terms: TwoTerms, seconds: number): TwoTermFit {
  const believed = totalOf(terms, factorsOf(fit));
  const [least, most] = [believed / surpriseMax, believed * surpriseMax];
  const isFirst = fit.observations === 0;
  const measured = isFirst ? seconds : Math.min(most, Math.max(least, seconds));
  const begun = terms.begun / measured;
  const carried = terms.carried / measured;
  return {
    observations: fit.observations + 1,
    begun: kept * fit.begun + begun,
    carried: kept * fit.carried + carried,
    begunSquared: kept * fit.begunSquared + begun * begun,
    carriedSquared: kept * fit.carriedSquared + carried * carried,
    product: kept * fit.product + begun * carried,
  };
}

/** What to multiply each term by: 1 before the first observation; one factor for both where two cannot be told or one would be negative. */
export function factorsOf(fit: TwoTermFit): TwoTerms {
  const { observations, begunSquared, carriedSquared, product } = fit;
  if (observations === 0) return { begun: 1, carried: 1 };
  const determinant = begunSquared * carriedSquared - product * product;
  if (determinant > determinantMin * begunSquared * carriedSquared) {
    const begun = (fit.begun * carriedSquared - fit.carried * product) / determinant;
    const carried = (fit.carried * begunSquared - fit.begun * product) / determinant;
    if (begun >= 0 && carried >= 0) return { begun, carried };
  }
  const both = (fit.begun + fit.carried) / (begunSquared + 2 * product + carriedSquared);
  return { begun: both, carried: both };
}

export const totalOf = (terms: TwoTerms, factors: TwoTerms = { begun: 1, carried: 1 }): number =>
  terms.begun * factors.begun + terms.carried * factors.carried;
