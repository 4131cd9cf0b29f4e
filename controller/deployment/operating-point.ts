/** The load that is really served: the mean step of the last seconds. Pure. */
import type { StepLoad } from '../../proto/domain/step-load.ts';

/** Steps this long ago count a third: chats come and go, a shift of the load stays. */
const memorySeconds = 10;

/** Takes in a step that took so many seconds; null: nothing was served yet. */
export function observeLoad(
  mean: StepLoad | null,
  load: StepLoad,
  seconds: number,
): StepLoad | null {
  if (!(seconds > 0)) return mean;
  if (mean === null) return load;
  const weight = 1 - Math.exp(-seconds / memorySeconds);
  const towards = (from: number, to: number) => from + weight * (to - from);
  return {
    decodeTokens: towards(mean.decodeTokens, load.decodeTokens),
    decodeContextTokens: towards(mean.decodeContextTokens, load.decodeContextTokens),
    prefillTokens: towards(mean.prefillTokens, load.prefillTokens),
    prefillContextTokens: towards(mean.prefillContextTokens, load.prefillContextTokens),
  };
}

/** Sequences that decode at once and their context, as a plan's workload has them; null when hardly any does. */
export function workloadAt(mean: StepLoad): { sequences: number; contextTokens: number } | null {
  if (mean.decodeTokens < 0.5) return null;
  const contextTokens = Math.max(1, Math.round(mean.decodeContextTokens / mean.decodeTokens));
  return { sequences: Math.max(1, Math.round(mean.decodeTokens)), contextTokens };
}
