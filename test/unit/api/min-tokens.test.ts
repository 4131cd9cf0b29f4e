import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bannedOf } from '../../../controller/api/end-tokens.ts';
import { checkTextRequest } from '../../../controller/api/generation-request.ts';
import {
  parseChatRequest,
  parseCompletionRequest,
} from '../../../controller/api/http/request-schema.ts';
import { TextModel } from '../../../controller/tokenizer/text-model.ts';
import type { FakeEngineOptions } from '../../support/fake-generation-engine.ts';
import { tokenizerFixture } from '../../support/text-model.ts';
import { request, serviceOver } from './generation-setting.ts';

let text: TextModel;
beforeAll(async () => {
  text = await TextModel.load(tokenizerFixture('byte-level'));
});
afterAll(() => text.close());

/** Of what was asked: the answer, and what the engine was asked. */
async function answerTo(
  fields: Parameters<typeof request>[0],
  options: Partial<FakeEngineOptions> = {},
) {
  const { engine, service } = serviceOver(text, options);
  const { signal } = new AbortController();
  let written = '';
  let reason = '';
  const tokenIds: number[] = [];
  for await (const event of service.generate(request(fields), { arrivalMs: 600, signal })) {
    if (event.type === 'delta') {
      written += event.text;
      tokenIds.push(...event.tokenIds);
    }
    if (event.type === 'finished') reason = event.reason;
  }
  return { text: written, tokenIds, reason, asked: engine.requests.at(-1) };
}

describe('min_tokens', () => {
  it.each(['chat', 'completion'])('is read from a %s, 0 unless given', (endpoint) => {
    const minTokensOf = (fields: object) => {
      const messages = [{ role: 'user', content: 'Hi' }];
      const { requests } =
        endpoint === 'chat'
          ? parseChatRequest({ model: 'm', messages, ...fields })
          : parseCompletionRequest({ model: 'm', prompt: ['Hi', 'there'], ...fields });
      return new Set(requests.map(({ minTokens }) => minTokens));
    };
    expect(minTokensOf({ min_tokens: 5 })).toEqual(new Set([5]));
    for (const fields of [{}, { min_tokens: null }, { min_tokens: 0 }]) {
      expect(minTokensOf(fields)).toEqual(new Set([0]));
    }
    const error = { code: 'request-invalid', field: 'min_tokens' };
    expect(() => minTokensOf({ min_tokens: 'five' })).toThrow(expect.objectContaining(error));
  });

  it.each([-1, 0.5, 21, Number.NaN])(
    'of %d is refused with the range that max_tokens leaves',
    (minTokens) => {
      expect(() => checkTextRequest(request({ minTokens, maxTokens: 20 }))).toThrow(
        expect.objectContaining({
          code: 'request-invalid',
          message: `min_tokens: ${minTokens} is not a whole number from 0 to 20, as many as the answer may have`,
        }),
      );
    },
  );

  it('may be all of max_tokens, or of what fits', async () => {
    expect(() => checkTextRequest(request({ minTokens: 20, maxTokens: 20 }))).not.toThrow();
    const most = await answerTo({ minTokens: 509, maxTokens: null });
    expect(most.tokenIds).toHaveLength(509);
    await expect(answerTo({ minTokens: 510, maxTokens: null })).rejects.toMatchObject({
      field: 'min_tokens',
      message: expect.stringContaining('from 0 to 509'),
    });
  });

  it('ends with the room when a stream goes on where there is less than it began with', async () => {
    const resume = { tokenIds: [20, 21], seed: 1 };
    const rest = await answerTo({ minTokens: 600, maxTokens: null, resume });
    expect([rest.tokenIds.length, rest.reason]).toEqual([507, 'length']);
  });

  it('keeps ends of text and stop tokens from the first tokens, those that would be ignored too', async () => {
    for (const ignoreEndOfText of [true, false]) {
      const fields = { minTokens: 3, stopTokenIds: [78, 0], ignoreEndOfText };
      const { asked } = await answerTo(fields);
      expect(asked?.bannedBefore).toEqual({ position: 6, tokenIds: [0, 78] });
    }
    expect((await answerTo({ stopTokenIds: [78] })).asked).not.toHaveProperty('bannedBefore');
  });

  it('bans no end of text that the model has no row for', () => {
    const model = { endOfTextIds: [7, 300], vocabularySize: 300 };
    const banned = { bannedBefore: { position: 15, tokenIds: [7] } };
    expect(bannedOf(request({ minTokens: 3 }), model, 12)).toEqual(banned);
  });

  it('holds for the same tokens in a stream that goes on', async () => {
    const resume = { tokenIds: [20, 21], seed: 1 };
    const { asked } = await answerTo({ minTokens: 3, resume });
    expect(asked?.promptTokenIds).toEqual([10, 11, 12, 20, 21]);
    expect(asked?.bannedBefore?.position).toBe(6);
  });
});

describe('a stop text', () => {
  const script = [80, 81, 82, 80, 81, 82];
  const stop = () => [text.decode([81])];

  it('ends the answer only behind min_tokens', async () => {
    const fields = { stop: stop(), maxTokens: 6 };
    const first = await answerTo(fields, { script });
    expect([first.tokenIds.length, first.reason]).toEqual([2, 'stop']);
    const later = await answerTo({ ...fields, minTokens: 2 }, { script });
    expect([later.tokenIds.length, later.reason]).toEqual([5, 'stop']);
    expect(later.text).toBe(text.decode([80, 81, 82, 80]));
    const never = await answerTo({ ...fields, minTokens: 5 }, { script });
    expect([never.tokenIds.length, never.reason]).toEqual([6, 'length']);
    expect(never.text).toBe(text.decode(script));
  });

  it('that begins within min_tokens and ends behind them ends it', async () => {
    const fields = { stop: [text.decode([81, 82])], maxTokens: 6, minTokens: 2 };
    const answer = await answerTo(fields, { script });
    expect([answer.tokenIds.length, answer.text]).toEqual([3, text.decode([80])]);
  });

  it('counts the tokens that a stream had before it broke', async () => {
    const fields = { stop: stop(), maxTokens: 6, minTokens: 4 };
    const resume = { tokenIds: script.slice(0, 3), seed: 1 };
    const rest = await answerTo({ ...fields, resume }, { script: script.slice(3) });
    expect([rest.tokenIds.length, rest.reason]).toEqual([2, 'stop']);
    const complete = { tokenIds: script.slice(0, 5), seed: 1 };
    expect(await answerTo({ ...fields, resume: complete })).toMatchObject({ reason: 'stop' });
  });
});
