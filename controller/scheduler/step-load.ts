import type { StepLoad } from '../../proto/domain/step-load.ts';
import type { StepPlan } from './scheduler.ts';

/** The load of a step: a sequence that computes one token decodes, one that computes several is in prefill. */
export function stepLoadOf(plan: StepPlan): StepLoad {
  let decodeTokens = 0;
  let decodeContextTokens = 0;
  let prefillTokens = 0;
  let prefillContextTokens = 0;
  for (const { takeSampled, tokens, startPosition } of plan.sequences) {
    const count = takeSampled ? 1 : tokens.length;
    // The token at position p attends to p + 1 positions.
    const context = count * startPosition + (count * (count + 1)) / 2;
    if (count === 1) {
      decodeTokens += 1;
      decodeContextTokens += context;
    } else {
      prefillTokens += count;
      prefillContextTokens += context;
    }
  }
  return { decodeTokens, decodeContextTokens, prefillTokens, prefillContextTokens };
}
