import { HelsError } from '../../proto/domain/errors.ts';
import type { GenerationRequest } from '../../proto/domain/generation.ts';

/** What one sequence can have, and why. */
interface SequenceRoom {
  /** Positions of the model. */
  readonly contextTokensMax: number;
  /** Positions of all runnable KV of the group. */
  readonly kvTokens: number;
}

/** Throws request-invalid for a request without a prompt, context-too-long for one that can never fit. */
export function refuseRequest(request: GenerationRequest, room: SequenceRoom): void {
  const { promptTokenIds, maxTokens } = request;
  if (promptTokenIds.length === 0) {
    throw new HelsError('request-invalid', 'prompt: it has no tokens; give at least one', {
      field: 'prompt',
    });
  }
  const { contextTokensMax, kvTokens } = room;
  const wanted = promptTokenIds.length + maxTokens;
  const most = Math.min(contextTokensMax, kvTokens);
  if (wanted <= most) return;
  const why =
    kvTokens < contextTokensMax
      ? `: the group holds KV of ${kvTokens} tokens, the model could take ${contextTokensMax}`
      : '';
  throw new HelsError(
    'context-too-long',
    `prompt of ${promptTokenIds.length} tokens plus max_tokens ${maxTokens} is ${wanted}; ` +
      `one sequence may have ${most}${why}`,
    { field: 'max_tokens' },
  );
}

/** Throws plan-infeasible when one of those that are served may come to more than KV of so many tokens. */
export function refuseLessRoom(
  requests: readonly { readonly lengthMax: number }[],
  kvTokens: number,
): void {
  const lengthMax = Math.max(0, ...requests.map((request) => request.lengthMax));
  if (lengthMax <= kvTokens) return;
  throw new HelsError(
    'plan-infeasible',
    `a request that is being served may come to ${lengthMax} tokens; the new plan holds KV of ${kvTokens}`,
  );
}
