/**
 * When the controller plans anew by itself: a new plan must be clearly better at the load that is served, for a while, and pay for its
 * move; then it is left alone for a longer while. Pure: state, value and clock -> state and decision.
 */
import type { PayBack } from '../profiler/drift.ts';

export interface ReplanRules {
  /** Share of a step that a new plan must save: as of a trial, profiles are kind and loads differ (decision 9). */
  readonly gainMin: number;
  /** The move must have paid for itself by then; as long as the hold, after which another may follow. */
  readonly payBackSecondsMax: number;
  /** For so long without a break. */
  readonly sustainMs: number;
  /** After a plan began to serve. */
  readonly holdMs: number;
}

export const replanRules: ReplanRules = {
  gainMin: 0.15,
  payBackSecondsMax: 120,
  sustainMs: 30_000,
  holdMs: 120_000,
};

export interface ReplanState {
  /** Since when a new plan has been worth it; null: it is not. */
  readonly sinceMs: number | null;
  readonly holdUntilMs: number;
}

/** A plan began to serve, whoever wanted it. */
export function beganServing(nowMs: number, rules: ReplanRules = replanRules): ReplanState {
  return { sinceMs: null, holdUntilMs: nowMs + rules.holdMs };
}

/** For the moment. */
export function isWorthIt(
  { gainPerSecond, seconds }: PayBack,
  { gainMin, payBackSecondsMax }: ReplanRules = replanRules,
): boolean {
  return gainPerSecond >= gainMin && seconds <= payBackSecondsMax;
}

/** `value` of the best new plan at the load that is served now; null: there is no load, or no other plan. */
export function decideReplan(
  state: ReplanState,
  value: PayBack | null,
  nowMs: number,
  rules: ReplanRules = replanRules,
): { state: ReplanState; replan: boolean } {
  if (value === null || !isWorthIt(value, rules) || nowMs < state.holdUntilMs) {
    return { state: { ...state, sinceMs: null }, replan: false };
  }
  const sinceMs = state.sinceMs ?? nowMs;
  if (nowMs - sinceMs < rules.sustainMs) return { state: { ...state, sinceMs }, replan: false };
  return { state: beganServing(nowMs, rules), replan: true };
}
