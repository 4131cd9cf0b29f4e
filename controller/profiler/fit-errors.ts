import { quantile } from '../../proto/domain/quantile.ts';

/** Absolute errors relative to the measured seconds, in percent. */
export interface FitErrors {
  readonly points: number;
  readonly meanAbsolutePercent: number;
  readonly medianAbsolutePercent: number;
  readonly percentile95AbsolutePercent: number;
}

/** Errors of the points of one token count: a batch of decode, a chunk of prefill. */
export interface BucketErrors extends FitErrors {
  readonly tokens: number;
}

export function errorsOf(predicted: readonly number[], measured: readonly number[]): FitErrors {
  const percents = predicted
    .map((value, index) => {
      const seconds = measured[index] as number;
      return (100 * Math.abs(value - seconds)) / seconds;
    })
    .sort((left, right) => left - right);
  const sum = percents.reduce((total, value) => total + value, 0);
  return {
    points: percents.length,
    meanAbsolutePercent: percents.length > 0 ? sum / percents.length : 0,
    medianAbsolutePercent: quantile(percents, 0.5),
    percentile95AbsolutePercent: quantile(percents, 0.95),
  };
}

/** Errors by token count, ascending. */
export function bucketErrorsOf(
  tokens: readonly number[],
  predicted: readonly number[],
  measured: readonly number[],
): BucketErrors[] {
  const distinct = [...new Set(tokens)].sort((left, right) => left - right);
  return distinct.map((count) => {
    const inBucket = (_: number, index: number) => tokens[index] === count;
    return { tokens: count, ...errorsOf(predicted.filter(inBucket), measured.filter(inBucket)) };
  });
}
