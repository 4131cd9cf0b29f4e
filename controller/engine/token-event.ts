import type { TokenEvent } from '../../proto/domain/generation.ts';
import type { SampledToken__Output } from '../../proto/gen/hels/v1/SampledToken.ts';
import type { StepPlan } from '../scheduler/scheduler.ts';

/** What a caller is told of a token that the ranks sampled in this step. */
export function tokenEventOf(sampled: SampledToken__Output, plan: StepPlan): TokenEvent {
  const sequence = plan.sequences.find(({ slot }) => slot === sampled.slot);
  const wanted = sequence?.sampling?.logprobs ?? -1;
  return {
    type: 'token',
    tokenId: sampled.tokenId,
    logprob: wanted < 0 ? null : sampled.logprob,
    topLogprobs: sampled.topLogprobs,
    cachedTokens: sequence?.cachedTokens ?? 0,
  };
}
