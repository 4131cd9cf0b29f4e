/** Which tokens end an answer, and until where it cannot have them. */
import type { GenerationRequest } from '../../proto/domain/generation.ts';
import type { TextModel } from '../tokenizer/text-model.ts';
import type { TextRequest } from './generation-request.ts';

/** Each of them ends the answer. */
export function endIdsOf(request: TextRequest, text: TextModel): readonly number[] {
  const { ignoreEndOfText, stopTokenIds } = request;
  return ignoreEndOfText ? stopTokenIds : [...text.endOfTextIds, ...stopTokenIds];
}

/** Of the first `minTokens` tokens of the answer none is one of these; nor is it an end of text that would be ignored. */
export function bannedOf(
  { minTokens, stopTokenIds }: TextRequest,
  { endOfTextIds, vocabularySize }: Pick<TextModel, 'endOfTextIds' | 'vocabularySize'>,
  promptTokens: number,
): Pick<GenerationRequest, 'bannedBefore'> {
  if (minTokens === 0) return {};
  // A tokenizer can have an end of text that the model has no row for.
  const tokenIds = [...endOfTextIds, ...stopTokenIds].filter((id) => id < vocabularySize);
  return { bannedBefore: { position: promptTokens + minTokens, tokenIds: [...new Set(tokenIds)] } };
}
