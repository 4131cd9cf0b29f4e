import { expect, it } from 'vitest';
import { chatFormat, completionFormat } from '../../../controller/api/http/answer-format.ts';
import type { TextModel } from '../../../controller/tokenizer/text-model.ts';

/** Token 65 is the letter A. */
const model = { tokenBytes: (id: number) => Uint8Array.of(id) } as unknown as TextModel;
const best = [
  { tokenId: 65, logprob: -0.5 },
  { tokenId: 66, logprob: -1 },
];

it("a completion's likeliest tokens have the sampled one among them, in a chat they are as asked for", () => {
  const entries = [
    { tokenId: 90, logprob: -9, topLogprobs: best, textOffset: 0 },
    { tokenId: 66, logprob: -1, topLogprobs: best, textOffset: 1 },
    { tokenId: 90, logprob: -9, topLogprobs: [], textOffset: 2 },
  ];
  expect(completionFormat.logprobs(entries, model)).toMatchObject({
    tokens: ['Z', 'B', 'Z'],
    top_logprobs: [{ A: -0.5, B: -1, Z: -9 }, { A: -0.5, B: -1 }, { Z: -9 }],
  });
  const { content } = chatFormat.logprobs(entries, model) as { content: object[] };
  expect(content[0]).toMatchObject({ token: 'Z', top_logprobs: [{ token: 'A' }, { token: 'B' }] });
});
