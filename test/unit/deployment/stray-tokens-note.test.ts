import { expect, it } from 'vitest';
import { strayTokensNote } from '../../../controller/deployment/stray-tokens-note.ts';

const textOf = (strayTokenIds: number[]) => ({
  strayTokenIds,
  vocabularySize: 32_000,
  nameOf: (id: number) => `<${id}>`,
});

it('names the first token without a row, and how many there are', () => {
  expect(strayTokensNote(textOf([32_000, 32_001]))).toBe(
    "the tokenizer has tokens that the model has no row for, 2 in all, the first '<32000>' (32000; vocab_size is 32000): prompts with them are refused",
  );
});

it('says nothing when every token has a row: more rows are padding', () => {
  expect(strayTokensNote(textOf([]))).toBeNull();
});
