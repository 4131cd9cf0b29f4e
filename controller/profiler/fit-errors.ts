import { quantile } from '../../proto/domain/quantile.ts';

/** Absolute errors relative to the measured seconds, in percent. */
export interface FitErrors {
  readonly points: number;
  readonly meanAbsolutePercent: number;
  readonly medianAbsolutePercent: number;
  readonly percentile95AbsolutePercent: number;
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
