import type { GenerationRequest } from '../../proto/domain/generation.ts';

/** A greedy request; the prompt is given as tokens or as how many of them. Of the first `minTokens` tokens none is a stop token. */
export function requestOf(
  requestId: string,
  prompt: number | readonly number[],
  maxTokens: number,
  stopTokenIds: readonly number[] = [],
  minTokens = 0,
): GenerationRequest {
  const promptTokenIds =
    typeof prompt === 'number'
      ? Array.from({ length: prompt }, (_, index) => (index * 31 + requestId.length) % 64)
      : prompt;
  const sampling = { temperature: 0, topP: 1, topK: 0, seed: 0, logprobs: -1 };
  const prefixCache = { salt: '' };
  const bannedBefore = { position: promptTokenIds.length + minTokens, tokenIds: stopTokenIds };
  return {
    requestId,
    promptTokenIds,
    sampling,
    maxTokens,
    stopTokenIds,
    prefixCache,
    ...(minTokens > 0 ? { bannedBefore } : {}),
  };
}
