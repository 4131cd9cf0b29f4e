import type { TextModel } from '../tokenizer/text-model.ts';

/**
 * That the tokenizer has tokens without a row of the model, an added one mostly that nobody needs: prompts with them are refused. The
 * other way round, rows that no token has, is padding. Null: there are none. Pure.
 */
export function strayTokensNote(
  text: Pick<TextModel, 'strayTokenIds' | 'vocabularySize' | 'nameOf'>,
): string | null {
  const [first] = text.strayTokenIds;
  if (first === undefined) return null;
  const { length } = text.strayTokenIds;
  return `the tokenizer has tokens that the model has no row for, ${length} in all, the first '${text.nameOf(first)}' (${first}; vocab_size is ${text.vocabularySize}): prompts with them are refused`;
}
