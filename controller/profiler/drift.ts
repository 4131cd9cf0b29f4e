/** When a rank is so far from its lines that the plan made from them may be wrong, and what a new plan would be worth. Pure. */
import { type OnlineState, ratioOf } from './online.ts';

/** Beyond the first a rank has drifted, within the second it is back; between them it stays what it was. */
const driftLog = { enter: Math.log(1.3), leave: Math.log(1.15) } as const;
/** Steps before anything is said. */
const stepsMin = 32;

/** For which it must be so: neighbours that come and go for a moment are no reason to plan anew. */
const settledMs = 10_000;
/** What counts of the time between two steps: a pause says nothing of the device. */
const stepMsMax = settledMs / 2;

export interface DriftState {
  readonly drifted: boolean;
  /** For how long it has been the other way round, without having been back, up to `lastMs`; null: it is not. */
  readonly otherMs: number | null;
  readonly lastMs: number;
}

export const initialDrift: DriftState = { drifted: false, otherMs: null, lastMs: 0 };

/** After a step that ended at `nowMs`. */
export function judgeDrift(state: DriftState, online: OnlineState, nowMs: number): DriftState {
  if (online.steps < stepsMin) return state;
  const { drifted } = state;
  const distance = Math.abs(Math.log(ratioOf(online)));
  const isFar = distance > driftLog.enter;
  const isNear = distance < driftLog.leave;
  if (drifted ? isFar : isNear) return { drifted, otherMs: null, lastMs: nowMs };
  const sinceLastMs = Math.min(stepMsMax, nowMs - state.lastMs);
  const otherMs = state.otherMs === null ? null : state.otherMs + sinceLastMs;
  if (!(drifted ? isNear : isFar)) return { drifted, otherMs, lastMs: nowMs };
  if ((otherMs ?? 0) < settledMs) return { drifted, otherMs: otherMs ?? 0, lastMs: nowMs };
  return { drifted: !drifted, otherMs: null, lastMs: nowMs };
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
