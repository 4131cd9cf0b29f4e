/** When a rank is so far from its lines that the plan made from them may be wrong, and what a new plan would be worth. Pure. */
import { type OnlineState, ratioOf } from './online.ts';

/** Beyond the first a rank has drifted, within the second it is back; between them it stays what it was. */
const driftLog = { enter: Math.log(1.3), leave: Math.log(1.15) } as const;
/** Steps before anything is said. */
const stepsMin = 32;

/** For which it must be so: neighbours that come and go for a moment are no reason to plan anew. */
const settledMs = 10_000;

export interface DriftState {
  readonly drifted: boolean;
  /** Since when it is the other way round, without having been back; null: it is not. */
  readonly sinceMs: number | null;
}

export const initialDrift: DriftState = { drifted: false, sinceMs: null };

/** After a step that ended at `nowMs`. */
export function judgeDrift(state: DriftState, online: OnlineState, nowMs: number): DriftState {
  if (online.steps < stepsMin) return state;
  const { drifted } = state;
  const distance = Math.abs(Math.log(ratioOf(online)));
  const isFar = distance > driftLog.enter;
  const isNear = distance < driftLog.leave;
  if (drifted ? isFar : isNear) return { drifted, sinceMs: null };
  if (!(drifted ? isNear : isFar)) return state;
  const sinceMs = state.sinceMs ?? nowMs;
  return nowMs - sinceMs < settledMs ? { drifted, sinceMs } : { drifted: !drifted, sinceMs: null };
}

export interface ReplanValue {
  /** Seconds of one step with the split as it is, and with the best one. */
  readonly stepSeconds: number;
  readonly replannedStepSeconds: number;
  /** For which nothing is served while the weights move. */
  readonly movingSeconds: number;
}

export interface PayBack {
  /** Seconds of step time saved in each second of serving; at most 0 when a new plan is of no use. */
  readonly gainPerSecond: number;
  /** Of serving until the gain has paid for the move; Infinity when it never does. */
  readonly seconds: number;
}

export function payBackOf({
  stepSeconds,
  replannedStepSeconds,
  movingSeconds,
}: ReplanValue): PayBack {
  const gainPerSecond = stepSeconds > 0 ? 1 - replannedStepSeconds / stepSeconds : 0;
  const seconds = gainPerSecond > 0 ? movingSeconds / gainPerSecond : Number.POSITIVE_INFINITY;
  return { gainPerSecond, seconds };
}
