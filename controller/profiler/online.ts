/**
 * How much slower a rank is than its lines say, from the steps it serves: an exponentially weighted mean of log(measured / predicted)
 * that leaves outliers out. Pure: state + measurement -> state. The lines times `ratioOf(state)` are the refined lines: a factor keeps
 * them non-negative, and what changes in service (contention, clock, temperature) changes a device as a whole.
 */
import type { LatencyLine } from '../../proto/domain/plan.ts';
import { latencyTerms } from './latency-terms.ts';

export interface OnlineState {
  /** Steps taken in, outliers included. */
  readonly steps: number;
  readonly logRatio: number;
  /** Mean absolute innovation of what was believed. */
  readonly deviation: number;
  /** Steps since the mean began anew: it moves faster while there are few. */
  readonly weight: number;
  /** Outliers in a row, negative for those below. */
  readonly run: number;
}

export const initialOnline: OnlineState = {
  steps: 0,
  logRatio: 0,
  deviation: 0,
  weight: 0,
  run: 0,
};

/** Weight of a new measurement in the long run: the memory is about 30 steps. */
const gainMin = 1 / 30;
/** Innovations beyond this many deviations, and beyond the floor, are outliers. */
const outlierDeviations = 4;
const outlierLogMin = Math.log(1.25);
/** As many outliers in a row on one side are no outliers: the speed has changed. */
const changeRun = 8;
/** How fast outliers widen what is believed, so that a noisy device is not refused for ever. */
const outlierGain = 0.02;
/** A device is never believed to be further off than this: a unit error must not look like a measurement. */
const logRatioMax = Math.log(1000);

const isPositive = (value: number) => value > 0 && Number.isFinite(value);
const bounded = (log: number) => Math.min(logRatioMax, Math.max(-logRatioMax, log));

/** Takes one step's seconds in; a time or prediction that is not a finite number above 0 says nothing. */
export function observeStep(
  state: OnlineState,
  predictedSeconds: number,
  measuredSeconds: number,
): OnlineState {
  if (!isPositive(predictedSeconds) || !isPositive(measuredSeconds)) return state;
  const log = bounded(Math.log(measuredSeconds / predictedSeconds));
  const steps = state.steps + 1;
  const innovation = log - state.logRatio;
  if (state.weight === 0) return { steps, logRatio: log, deviation: 0, weight: 1, run: 0 };
  const limit = Math.max(outlierLogMin, outlierDeviations * state.deviation);
  if (Math.abs(innovation) > limit) return takeOutlier(state, steps, log, limit);
  const weight = state.weight + 1;
  const gain = Math.max(gainMin, 1 / weight);
  return {
    steps,
    logRatio: state.logRatio + gain * innovation,
    deviation: state.deviation + gain * (Math.abs(innovation) - state.deviation),
    weight,
    run: 0,
  };
}

function takeOutlier(state: OnlineState, steps: number, log: number, limit: number): OnlineState {
  const side = Math.sign(log - state.logRatio);
  const run = Math.sign(state.run) === side ? state.run + side : side;
  if (Math.abs(run) >= changeRun) {
    return { steps, logRatio: log, deviation: state.deviation, weight: 1, run: 0 };
  }
  const deviation = state.deviation + outlierGain * (limit - state.deviation);
  return { ...state, steps, deviation, run };
}

/** Measured / predicted seconds as believed now; 1 before the first step. */
export function ratioOf(state: OnlineState): number {
  return Math.exp(state.logRatio);
}

/** The lines of a device that takes `ratio` (> 0) times what they say. */
export function refineLines(lines: readonly LatencyLine[], ratio: number): LatencyLine[] {
  return lines.map((line) => {
    const refined: LatencyLine = {};
    for (const term of latencyTerms) {
      const coefficient = line[term];
      if (coefficient !== undefined) refined[term] = coefficient * ratio;
    }
    return refined;
  });
}
