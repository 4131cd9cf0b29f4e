/**
 * How far off seconds are that were predicted as a sum of two terms, what beginning costs and what comes with the amount: a factor on each,
 * by least squares of the error relative to what was believed, over the observations so far, which it forgets. Pure: state + measurement -> state.
 */

/** Seconds; either may be 0. */
export interface TwoTerms {
  readonly begun: number;
  readonly carried: number;
}

/** Sums over the observations, of terms relative to what was believed: times what was measured, and times each other. */
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
/** What is further off from what is believed counts as so far off: a stall, or a step that was too quick to be true. */
const surpriseMax = 2;

/** `seconds` that were measured are above 0, as what was predicted as fitted. */
export function observeTerms(fit: TwoTermFit, terms: TwoTerms, seconds: number): TwoTermFit {
  // 0: all is believed to lie in a term that this step has not.
  const believed = (fit.observations > 0 && totalOf(terms, factorsOf(fit))) || seconds;
  const measured = Math.min(surpriseMax, Math.max(1 / surpriseMax, seconds / believed));
  const begun = terms.begun / believed;
  const carried = terms.carried / believed;
  return {
    first: fit.first,
    observations: fit.observations + 1,
    begun: kept * fit.begun + begun * measured,
    carried: kept * fit.carried + carried * measured,
    begunSquared: kept * fit.begunSquared + begun * begun,
    carriedSquared: kept * fit.carriedSquared + carried * carried,
    product: kept * fit.product + begun * carried,
  };
}

/** What to multiply each term by, 0 at least; where the two cannot be told apart, those of the beginning times one factor. */
export function factorsOf(fit: TwoTermFit): TwoTerms {
  const { first, observations, begunSquared, carriedSquared, product } = fit;
  if (observations === 0) return first;
  const determinant = begunSquared * carriedSquared - product * product;
  if (determinant > determinantMin * begunSquared * carriedSquared) {
    const begun = (fit.begun * carriedSquared - fit.carried * product) / determinant;
    const carried = (fit.carried * begunSquared - fit.begun * product) / determinant;
    if (begun < 0) return { begun: 0, carried: fit.carried / carriedSquared };
    if (carried < 0) return { begun: fit.begun / begunSquared, carried: 0 };
    return { begun, carried };
  }
  const sum = first.begun * fit.begun + first.carried * fit.carried;
  const squares =
    first.begun ** 2 * begunSquared +
    2 * first.begun * first.carried * product +
    first.carried ** 2 * carriedSquared;
  return { begun: (first.begun * sum) / squares, carried: (first.carried * sum) / squares };
}

export const totalOf = (terms: TwoTerms, factors: TwoTerms): number =>
  terms.begun * factors.begun + terms.carried * factors.carried;
