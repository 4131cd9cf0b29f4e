/** How the two endpoints write the same answers. Shapes and names are OpenAI's. */
import type { TextModel } from '../../tokenizer/text-model.ts';
import { tokenText } from '../../tokenizer/token-bytes.ts';
import type { TextLogprob } from '../generation-service.ts';

export type FinishReason = 'stop' | 'length';

export interface AnswerFormat {
  idPrefix: string;
  /** `object` of a whole answer and of a chunk of a stream. */
  objects: { whole: string; chunk: string };
  whole(index: number, answer: WholeAnswer): object;
  /** The choice of a chunk that only says that this answer begins; null: none is sent. */
  begin(index: number): object | null;
  delta(index: number, text: string, logprobs: object | null): object;
  end(index: number, reason: FinishReason): object;
  logprobs(entries: readonly TextLogprob[], model: TextModel): object;
}

interface WholeAnswer {
  text: string;
  reason: FinishReason;
  logprobs: object | null;
}

export const chatFormat: AnswerFormat = {
  idPrefix: 'chatcmpl',
  objects: { whole: 'chat.completion', chunk: 'chat.completion.chunk' },
  whole: (index, { text, reason, logprobs }) => ({
    index,
    message: { role: 'assistant', content: text, refusal: null },
    logprobs,
    finish_reason: reason,
  }),
  begin: (index) => chatChunk(index, { role: 'assistant', content: '' }, null, null),
  delta: (index, content, logprobs) => chatChunk(index, { content }, logprobs, null),
  end: (index, reason) => chatChunk(index, {}, null, reason),
  logprobs: (entries, model) => ({
    content: entries.map((entry) => ({
      ...chatLogprob(model, entry),
      top_logprobs: entry.topLogprobs.map((candidate) => chatLogprob(model, candidate)),
    })),
    refusal: null,
  }),
};

function chatChunk(
  index: number,
  delta: object,
  logprobs: object | null,
  reason: FinishReason | null,
): object {
  return { index, delta, logprobs, finish_reason: reason };
}

function chatLogprob(model: TextModel, entry: { tokenId: number; logprob: number }) {
  const bytes = model.tokenBytes(entry.tokenId);
  return { token: tokenText(bytes), logprob: entry.logprob, bytes: [...bytes] };
}

export const completionFormat: AnswerFormat = {
  idPrefix: 'cmpl',
  objects: { whole: 'text_completion', chunk: 'text_completion' },
  whole: (index, { text, reason, logprobs }) => completionChoice(index, text, logprobs, reason),
  begin: () => null,
  delta: (index, text, logprobs) => completionChoice(index, text, logprobs, null),
  end: (index, reason) => completionChoice(index, '', null, reason),
  logprobs: (entries, model) => {
    const text = (tokenId: number) => tokenText(model.tokenBytes(tokenId));
    return {
      tokens: entries.map((entry) => text(entry.tokenId)),
      token_logprobs: entries.map((entry) => entry.logprob),
      // The token itself is always there, so there may be one more than was asked for.
      top_logprobs: entries.map((entry) =>
        Object.fromEntries(
          [...entry.topLogprobs, entry].map((top) => [text(top.tokenId), top.logprob]),
        ),
      ),
      text_offset: entries.map((entry) => entry.textOffset),
    };
  },
};

function completionChoice(
  index: number,
  text: string,
  logprobs: object | null,
  reason: FinishReason | null,
): object {
  return { index, text, logprobs, finish_reason: reason };
}
