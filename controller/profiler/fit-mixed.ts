import type { LatencyLine } from '../../proto/domain/plan.ts';
import { type BucketErrors, bucketErrorsOf, errorsOf, type FitErrors } from './fit-errors.ts';
import { fitNonNegative, settledRounds } from './fit-line.ts';
import { type LoadPoint, predictMixedSeconds } from './latency-terms.ts';

/** What a prefill chunk's context costs in a step that decodes too, and how well such steps are predicted. */
export interface MixedFit {
  /** In place of the prefill lines' own (design section 6). */
  readonly perContextHeadGroup: number;
  /** On points that took no part in the fit. */
  readonly heldOut: FitErrors;
  /** The same by decode tokens. */
  readonly buckets: readonly BucketErrors[];
  readonly residualSeconds: readonly number[];
}

const holdOutEvery = 5;
const holdOutPointsMin = 5;

/** The one coefficient left once the decode lines are known. Without mixed points it is that of the prefill lines. */
export function fitMixed(
  points: readonly LoadPoint[],
  seconds: readonly number[],
  decode: readonly LatencyLine[],
  prefill: readonly LatencyLine[],
): MixedFit {
  const isHeldOut = (_: unknown, index: number) =>
    points.length >= holdOutPointsMin && index % holdOutEvery === Math.floor(holdOutEvery / 2);
  const isFitted = (value: unknown, index: number) => !isHeldOut(value, index);
  const fallback = Math.max(0, ...prefill.map((line) => line.perContextHeadGroup ?? 0));
  const perContextHeadGroup = fitContext(
    points.filter(isFitted),
    seconds.filter(isFitted),
    decode,
    fallback,
  );
  const predicted = points.map((point) => predictMixedSeconds(decode, perContextHeadGroup, point));
  const heldOutSeconds = seconds.filter(isHeldOut);
  const heldOutTokens = points.filter(isHeldOut).map(({ tokens }) => tokens);
  return {
    perContextHeadGroup,
    heldOut: errorsOf(predicted.filter(isHeldOut), heldOutSeconds),
    buckets: bucketErrorsOf(heldOutTokens, predicted.filter(isHeldOut), heldOutSeconds),
    residualSeconds: predicted.map((value, index) => value - (seconds[index] as number)),
  };
}

function fitContext(
  points: readonly LoadPoint[],
  seconds: readonly number[],
  decode: readonly LatencyLine[],
  fallback: number,
): number {
  const rest = points.map(
    (point, index) => (seconds[index] as number) - predictMixedSeconds(decode, 0, point),
  );
  const design = points.map((point) => [(point.chunkContextTokens ?? 0) * point.headGroups]);
  // Where the decode lines alone say more than was measured, or no head is there, nothing can be said about the chunk's context.
  const usable = points.map(
    (_, index) => (rest[index] as number) > 0 && (design[index]?.[0] ?? 0) > 0,
  );
  const keep = (_: unknown, index: number) => usable[index] === true;
  if (!usable.includes(true)) return points.length > 0 ? 0 : fallback;
  return fitNonNegative(design.filter(keep), rest.filter(keep), [0], settledRounds)[0] ?? 0;
}
