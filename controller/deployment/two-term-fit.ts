/**
 * How far off seconds are that were predicted as a sum of two terms, what beginning costs and what comes with the amount: a factor on each,
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
  /** Factors before the first observation. */
  readonly first: TwoTerms;
  readonly observations: number;
  readonly begun: number;
  readonly carried: number;
  readonly begunSquared: number;
  readonly carriedSquared: number;
  readonly product: number;
}

export const initialFit = (first: TwoTerms): TwoTermFit => ({
  first,
  observations: 0,
  begun: 0,
  carried: 0,
  begunSquared: 0,
  carriedSquared: 0,
  product: 0,
});

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
    first: fit.first,
    observations: fit.observations + 1,
    begun: kept * fit.begun + begun,
    carried: kept * fit.carried + carried,
    begunSquared: kept * fit.begunSquared + begun * begun,
    carriedSquared: kept * fit.carriedSquared + carried * carried,
    product: kept * fit.product + begun * carried,
  };
}

/** What to multiply each term by; one factor on both of `first` where two cannot be told or one would be negative. */
export function factorsOf(fit: TwoTermFit): TwoTerms {
  const { first, observations, begunSquared, carriedSquared, product } = fit;
  if (observations === 0) return first;
  const determinant = begunSquared * carriedSquared - product * product;
  if (determinant > determinantMin * begunSquared * carriedSquared) {
    const begun = (fit.begun * carriedSquared - fit.carried * product) / determinant;
    const carried = (fit.carried * begunSquared - fit.begun * product) / determinant;
    if (begun >= 0 && carried >= 0) return { begun, carried };
  }
  const sum = first.begun * fit.begun + first.carried * fit.carried;
  const squares =
    first.begun ** 2 * begunSquared +
    2 * first.begun * first.carried * product +
    first.carried ** 2 * carriedSquared;
  const both = sum / squares;
  return { begun: both * first.begun, carried: both * first.carried };
}

export const totalOf = (terms: TwoTerms, factors: TwoTerms): number =>
  terms.begun * factors.begun + terms.carried * factors.carried;
