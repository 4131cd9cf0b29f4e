import { HelsError } from '../../proto/domain/errors.ts';
import type { LatencyLine } from '../../proto/domain/plan.ts';
import { type BucketErrors, bucketErrorsOf, errorsOf, type FitErrors } from './fit-errors.ts';
import { fitNonNegative, settledRounds } from './fit-line.ts';
import { conditionNumber, identify } from './identify.ts';
import {
  type LatencyTerm,
  type LoadPoint,
  latencyTerms,
  predictSeconds,
  termValues,
} from './latency-terms.ts';

/** Measured points of one phase. */
interface Sample {
  readonly point: LoadPoint;
  readonly values: readonly number[];
  readonly seconds: number;
}

/** The lines of one phase of one device and how far they can be trusted. */
export interface PhaseFit {
  /** One line, or two where held-out points ask for a roofline. */
  readonly lines: LatencyLine[];
  /** On the points that were fitted: all of them. */
  readonly fitted: FitErrors;
  /** On each point by lines fitted without it (cross-validation): the errors to quote. */
  readonly heldOut: FitErrors;
  /** The same by token count. */
  readonly buckets: readonly BucketErrors[];
  /** Predicted - measured seconds, in the order of the points. */
  readonly residualSeconds: number[];
  /** Of the design with relative weights and scaled columns, unidentified terms left out. */
  readonly conditionNumber: number;
  /** Terms that the points cannot tell from earlier ones; their coefficients are 0. */
  readonly unidentified: LatencyTerm[];
}

/** Parts that the points are dealt into; each is foretold by a fit of the others. Fewer points than this leave none to spare. */
const folds = 5;
const crossValidatedPointsMin = 10;

/** Two lines must lower the held-out mean error by this share to be worth their coefficients. */
const secondLineGain = 0.1;

/** One line this good (held-out mean, percent) is enough. */
const goodPercent = 1;

/** Rounds of assigning points to lines, and cuts to start from. */
const roundsMax = 8;
const cutsMax = 6;

function lineFrom(coefficients: readonly number[]): LatencyLine {
  const line: LatencyLine = {};
  for (const [index, term] of latencyTerms.entries()) {
    const coefficient = coefficients[index] as number;
    if (coefficient > 0) line[term] = coefficient;
  }
  return line;
}

/** A line through some samples. Terms that those samples cannot identify stay 0. */
function fitLine(samples: readonly Sample[], rounds: number): LatencyLine {
  const relative = samples.map(({ values, seconds }) => values.map((value) => value / seconds));
  const design = samples.map((sample) => sample.values);
  const seconds = samples.map((sample) => sample.seconds);
  return lineFrom(fitNonNegative(design, seconds, identify(relative).kept, rounds));
}

function errorsOn(lines: readonly LatencyLine[], samples: readonly Sample[]): FitErrors {
  return errorsOf(
    samples.map(({ point }) => predictSeconds(lines, point)),
    samples.map(({ seconds }) => seconds),
  );
}

/** Which samples the first of two lines is fitted to. */
type Assignment = readonly boolean[];

/** Both lines of an assignment; null when one would have fewer than two samples. */
function linesOf(
  samples: readonly Sample[],
  isFirst: Assignment,
  rounds: number,
): LatencyLine[] | null {
  const groups = [
    samples.filter((_, index) => isFirst[index]),
    samples.filter((_, index) => !isFirst[index]),
  ];
  if (groups.some((group) => group.length < 2)) return null;
  return groups.map((group) => fitLine(group, rounds));
}

interface Roofline {
  readonly isFirst: Assignment;
  readonly error: number;
}

/** Alternates between fitting both lines and giving each sample to the line that is higher there; null when one starves. */
function settle(samples: readonly Sample[], start: Assignment): Roofline | null {
  let isFirst = start;
  let best: Roofline | null = null;
  for (let round = 0; round < roundsMax; round += 1) {
    const lines = linesOf(samples, isFirst, 1);
    if (lines === null) return best;
    const error = errorsOn(lines, samples).meanAbsolutePercent;
    if (best === null || error < best.error) best = { isFirst, error };
    const [first, second] = lines as [LatencyLine, LatencyLine];
    const next = samples.map(
      ({ point }) => predictSeconds([first], point) >= predictSeconds([second], point),
    );
    if (next.every((value, index) => value === isFirst[index])) return best;
    isFirst = next;
  }
  return best;
}

/** The best roofline from several ways to cut the samples by tokens in two; the alternation moves the cuts. */
function fitTwoLines(samples: readonly Sample[]): LatencyLine[] | null {
  const tokens = [...new Set(samples.map(({ point }) => point.tokens))].sort((a, b) => a - b);
  const cuts = tokens.slice(1);
  const stride = Math.max(1, Math.ceil(cuts.length / cutsMax));
  let best: Roofline | null = null;
  for (const cut of cuts.filter((_, index) => index % stride === 0)) {
    const start = samples.map(({ point }) => point.tokens < cut);
    const settled = settle(samples, start);
    if (settled !== null && (best === null || settled.error < best.error)) best = settled;
  }
  return best === null ? null : linesOf(samples, best.isFirst, settledRounds);
}

function checkSamples(points: readonly LoadPoint[], seconds: readonly number[]): void {
  if (points.length === 0 || points.length !== seconds.length) {
    throw new HelsError(
      'config-invalid',
      `profile: ${points.length} points and ${seconds.length} measured times; there must be one time for each of at least one point`,
      { field: 'seconds' },
    );
  }
  const index = seconds.findIndex((value) => !(value > 0 && Number.isFinite(value)));
  if (index >= 0) {
    throw new HelsError(
      'config-invalid',
      `profile: seconds[${index}] is ${seconds[index]}; a measured time must be a finite number above 0`,
      { field: `seconds[${index}]` },
    );
  }
}

/** A line count's fit of some samples; null when there are too few for it. */
type Fitter = (samples: readonly Sample[]) => LatencyLine[] | null;
const oneLine: Fitter = (samples) => [fitLine(samples, settledRounds)];

/**
 * What lines say of each sample when they are fitted to the samples of the other folds: sample i is of fold i modulo `folds`, so that every
 * fold is spread over the grid. null when a fold cannot be fitted.
 */
function predictUnseen(samples: readonly Sample[], fitter: Fitter): number[] | null {
  const predicted = new Array<number>(samples.length);
  for (let fold = 0; fold < folds; fold += 1) {
    const lines = fitter(samples.filter((_, index) => index % folds !== fold));
    if (lines === null) return null;
    for (let index = fold; index < samples.length; index += folds) {
      predicted[index] = predictSeconds(lines, (samples[index] as Sample).point);
    }
  }
  return predicted;
}

interface Choice {
  readonly lines: LatencyLine[];
  /** Of each sample, by lines that have not seen it; empty with too few samples to leave any out. */
  readonly unseen: readonly number[];
}

/** One line, or two where they foretell points that they have not seen clearly better. */
function choose(samples: readonly Sample[]): Choice {
  const single = oneLine(samples) as LatencyLine[];
  const seconds = samples.map((sample) => sample.seconds);
  if (samples.length < crossValidatedPointsMin) {
    const double = fitTwoLines(samples);
    const better =
      double !== null && isWorthIt(errorsOn(double, samples), errorsOn(single, samples));
    return { lines: better ? double : single, unseen: [] };
  }
  const unseenBySingle = predictUnseen(samples, oneLine) as number[];
  const unseenByDouble = predictUnseen(samples, fitTwoLines);
  const double = unseenByDouble === null ? null : fitTwoLines(samples);
  if (unseenByDouble === null || double === null) return { lines: single, unseen: unseenBySingle };
  return isWorthIt(errorsOf(unseenByDouble, seconds), errorsOf(unseenBySingle, seconds))
    ? { lines: double, unseen: unseenByDouble }
    : { lines: single, unseen: unseenBySingle };
}

function isWorthIt(double: FitErrors, single: FitErrors): boolean {
  const { meanAbsolutePercent } = single;
  return (
    meanAbsolutePercent > goodPercent &&
    double.meanAbsolutePercent < (1 - secondLineGain) * meanAbsolutePercent
  );
}

/** Fits one phase from measured seconds, one for each point. Throws config-invalid for missing or impossible times. */
export function fitPhase(points: readonly LoadPoint[], seconds: readonly number[]): PhaseFit {
  checkSamples(points, seconds);
  const samples = points.map((point, index) => ({
    point,
    values: termValues(point),
    seconds: seconds[index] as number,
  }));
  const { lines, unseen } = choose(samples);
  const judged = seconds.slice(0, unseen.length);
  const relative = samples.map((sample) => sample.values.map((value) => value / sample.seconds));
  const { kept, dropped } = identify(relative);
  return {
    lines,
    fitted: errorsOn(lines, samples),
    heldOut: errorsOf(unseen, judged),
    buckets: bucketErrorsOf(
      points.slice(0, unseen.length).map(({ tokens }) => tokens),
      unseen,
      judged,
    ),
    residualSeconds: samples.map((sample) => predictSeconds(lines, sample.point) - sample.seconds),
    conditionNumber: conditionNumber(relative, kept),
    unidentified: dropped.map((index) => latencyTerms[index] as LatencyTerm),
  };
}
