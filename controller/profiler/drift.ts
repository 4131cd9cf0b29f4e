/** When a rank is so far from its lines that the plan made from them may be wrong, and what a new plan would be worth. Pure. */
import { type OnlineState, ratioOf } from './online.ts';

/** Beyond the first a rank has drifted, within the second it is back; between them it stays what it was. */
const driftLog = { enter: Math.log(1.3), leave: Math.log(1.15) } as const;
/** Steps before anything is said. */
const stepsMin = 32;

export type Drift = 'began' | 'ended' | 'unchanged';

export function judgeDrift(drifted: boolean, online: OnlineState): Drift {
  if (online.steps < stepsMin) return 'unchanged';
  const distance = Math.abs(Math.log(ratioOf(online)));
  if (!drifted && distance > driftLog.enter) return 'began';
  if (drifted && distance < driftLog.leave) return 'ended';
  return 'unchanged';
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
