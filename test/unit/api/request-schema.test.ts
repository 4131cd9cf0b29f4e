/** What a wrong body is told, and what is looked at of one that is wrong a million times over. */
import { describe, expect, it } from 'vitest';
import { checkTextRequest } from '../../../controller/api/generation-request.ts';
import {
  parseChatRequest,
  parseCompletionRequest,
} from '../../../controller/api/http/request-schema.ts';
import { limits } from '../../../controller/limits.ts';

/** A list that counts how often its elements are looked at. */
function watched(element: unknown, length: number) {
  const looks = { count: 0 };
  const list = new Proxy(Array(length).fill(element), {
    get: (target, key) => {
      if (typeof key === 'string' && /^\d+$/.test(key)) looks.count += 1;
      return Reflect.get(target, key, target);
    },
  });
  return { list, looks };
}

function refusalOf(fields: object): unknown {
  try {
    return parseCompletionRequest({ model: 'm', prompt: 'a', ...fields });
  } catch (error) {
    return error;
  }
}

describe('a list with more elements than it may have', () => {
  it.each([
    ['stop_token_ids', ''],
    ['stop_token_ids', 7],
  ])('is refused by its length: %s of %j', (field, element) => {
    const { list, looks } = watched(element, 100_000);
    expect(refusalOf({ [field]: list })).toMatchObject({
      code: 'request-invalid',
      field,
      message: `${field}: 100000 are more than the ${limits.stopTokenIdsMax} token ids a request may have`,
    });
    expect(looks.count).toBe(0);
  });

  it.each([0, 'text'])('is refused by its length: stop of %j', (element) => {
    const { list, looks } = watched(element, 100_000);
    expect(refusalOf({ stop: list })).toMatchObject({
      code: 'request-invalid',
      field: 'stop',
      message: expect.stringMatching(
        /^stop: \[.{60,80}\.\.\. is not a text or a list of at most 4 texts$/,
      ),
    });
    // Those that the message shows.
    expect(looks.count).toBeLessThanOrEqual(40);
  });
});

const prompts = 'a text, a list of texts, a list of token ids or a list of such lists';

it('says what is missing', () => {
  expect(() => parseCompletionRequest({ model: 'm' })).toThrow(
    `prompt: is missing; give ${prompts}`,
  );
  const messages = [{ role: 'user' }];
  expect(() => parseChatRequest({ model: 'm', messages })).toThrow(
    'messages[0].content: is missing; give a text or a list of parts',
  );
});

it('names a number that is not finite as it is', () => {
  const body = { model: 'm', prompt: 'a', temperature: Number.POSITIVE_INFINITY };
  expect(() => parseCompletionRequest(body)).toThrow('temperature: Infinity is not a number');
  const [request] = parseCompletionRequest({ model: 'm', prompt: 'a' }).requests;
  if (request === undefined) throw new Error('there is no request');
  expect(() => checkTextRequest({ ...request, temperature: Number.NaN })).toThrow(
    'temperature: NaN is not a number from 0 to',
  );
});
