import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { limits } from '../../../controller/limits.ts';
import { TextModel } from '../../../controller/tokenizer/text-model.ts';
import { tokenText } from '../../../controller/tokenizer/token-bytes.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { tokenizerFixture } from '../../support/text-model.ts';

const family = '\u{1F468}\u200D\u{1F469}\u200D\u{1F467}';
const texts = [
  'Hello world',
  ' the head of the token, and. ',
  'あああいうえお日本語テキスト',
  `emoji 😀😘🎉 ${family} done`,
  'naïve café \u{1D518} Ωmega',
  'two  spaces\nnew line',
];

const models: Record<string, TextModel> = {};
beforeAll(async () => {
  for (const name of ['byte-level', 'byte-fallback'] as const) {
    models[name] = await TextModel.load(tokenizerFixture(name));
  }
});
afterAll(() => Promise.all(Object.values(models).map((model) => model.close())));

describe.each(['byte-level', 'byte-fallback'])('%s', (name) => {
  it.each(texts)('streams %j piece by piece, never half a character', async (text) => {
    const model = models[name] as TextModel;
    const tokenIds = await model.encode(text, true);
    const detokenizer = model.detokenizer();
    const pieces = tokenIds.map((id) => detokenizer.push(id));
    for (const piece of pieces) expect(piece).not.toContain('\uFFFD');
    expect(pieces.join('') + detokenizer.flush()).toBe(text);
    expect(pieces.filter((piece) => piece !== '').length).toBeGreaterThan(1);
  });

  it.each([
    'x\uFFFDy',
    '\uFFFD',
    'x\uFFFD',
    '\uFFFD'.repeat(12),
    'a\uFFFD '.repeat(40),
    'あ\uFFFDい\uFFFD\uFFFD😀\uFFFD',
  ])('streams %j, whose U+FFFD is no broken character, as it comes', async (text) => {
    const model = models[name] as TextModel;
    const tokenIds = await model.encode(text, false);
    const detokenizer = model.detokenizer();
    let given = '';
    for (const [index, id] of tokenIds.entries()) {
      given += detokenizer.push(id);
      const bytes = tokenIds.slice(0, index + 1).map((one) => model.tokenBytes(one));
      const whole = new TextDecoder().decode(Buffer.concat(bytes), { stream: true });
      expect(given.trimStart()).toBe(whole.trimStart());
    }
    expect(given + detokenizer.flush()).toBe(text);
  });

  it('gives the bytes of single tokens, which together are the text', async () => {
    const model = models[name] as TextModel;
    const tokenIds = await model.encode('Hello あ😀', false);
    const bytes = Buffer.concat(tokenIds.map((id) => model.tokenBytes(id)));
    expect(bytes.toString('utf8').trimStart()).toBe('Hello あ😀');
  });
});

describe('a text that continues another', () => {
  const streamed = (model: TextModel, prompt: number[], answer: number[]) => {
    const detokenizer = model.detokenizer(prompt);
    return answer.map((id) => detokenizer.push(id)).join('') + detokenizer.flush();
  };

  it('keeps the space before its first word', async () => {
    const model = models['byte-fallback'] as TextModel;
    const all = await model.encode('the cat sat', true);
    const words = ['the', 'the cat'];
    for (const before of words) {
      const count = (await model.encode(before, true)).length;
      expect(streamed(model, all.slice(0, count), all.slice(count))).toBe(
        'the cat sat'.slice(before.length),
      );
    }
    // The begin-of-text token alone is no word before.
    expect(streamed(model, all.slice(0, 1), all.slice(1))).toBe('the cat sat');
    expect(streamed(model, [], all)).toBe('the cat sat');
  });

  it.each(['byte-level', 'byte-fallback'])(
    'is the rest of the whole: %s, cut at any token',
    async (name) => {
      const model = models[name] as TextModel;
      for (const text of [
        ...texts,
        '\u1780\u17B6\u179A'.repeat(9),
        'real \uFFFD here \uFFFD',
        'a\uFFFDb\u3044',
      ]) {
        const tokenIds = await model.encode(text, true);
        for (let cut = 0; cut <= tokenIds.length; cut += 1) {
          const before = model.decode(tokenIds.slice(0, cut)).replace(/\uFFFD+$/, '');
          const rest = streamed(model, tokenIds.slice(0, cut), tokenIds.slice(cut));
          // A prompt cut inside a character gives that character to the answer; a prompt that ends with U+FFFD itself keeps it.
          const kept = text.startsWith(`${before}\uFFFD`) ? `${before}\uFFFD` : before;
          expect([text.slice(before.length), text.slice(kept.length)]).toContain(rest);
        }
      }
    },
  );

  it('does not show a character that the prompt leaves broken', async () => {
    const model = models['byte-fallback'] as TextModel;
    const byte = (value: number) => 3 + value;
    const the = (await model.encode('the', false)) as number[];
    const [x] = (await model.encode('x', false)).slice(-1) as [number];
    expect(streamed(model, [...the, byte(0xe3)], [x, x])).toBe('xx');
    expect(streamed(model, [byte(0xe3)], [byte(0x81), byte(0x84), x])).toBe('\u3044x');
    expect(streamed(model, [byte(0xe3)], [])).toBe('');
    expect(streamed(model, [byte(0xff), byte(0xff), byte(0xff), byte(0xff)], [x])).toBe('x');
    const letters = [byte(0xe3), byte(0x81), byte(0x84)];
    const prompt = [...letters, ...letters, byte(0xe3)];
    expect(streamed(model, prompt, [byte(0x81), byte(0x84), x])).toBe('\u3044x');
  });

  it('keeps the space after a special token in its middle', async () => {
    const model = models['byte-fallback'] as TextModel;
    const [the, cat] = [await model.encode('the', false), await model.encode('cat', false)];
    expect(streamed(model, [], [...the, 2, ...cat])).toBe('the cat');
    expect(streamed(model, the, [2, ...cat])).toBe(' cat');
  });
});

describe('special tokens', () => {
  it('have no text, end the text, and are written by the template or the post-processor', async () => {
    const level = models['byte-level'] as TextModel;
    const fallback = models['byte-fallback'] as TextModel;
    expect(level.endOfTextIds).toEqual([0]);
    expect(fallback.endOfTextIds).toEqual([2]);
    expect((await fallback.encode('the', true))[0]).toBe(1);
    expect((await fallback.encode('the', false))[0]).not.toBe(1);
    expect(level.decode([0, 1, 2])).toBe('');
    expect(level.decode([])).toBe('');
    expect(level.decode([2 ** 20])).toBe('');
    expect(tokenText(level.tokenBytes(0))).toBe('<|end|>');
  });
});

describe('chat template', () => {
  it('is rendered from a named list and from chat_template.jinja', async () => {
    const messages = [{ role: 'user', content: 'Hi' }];
    expect(await models['byte-level']?.renderChat(messages)).toBe('<|user|>Hi<|end|><|assistant|>');
    expect(await models['byte-fallback']?.renderChat(messages)).toBe('<s>[user] Hi ');
  });

  it('tells what the template refuses', async () => {
    await expect(
      models['byte-fallback']?.renderChat([{ role: 'system', content: 'x' }]),
    ).rejects.toMatchObject({
      code: 'request-invalid',
      field: 'messages',
      message: expect.stringContaining('only user and assistant take part'),
    });
  });
});

describe('a model directory', () => {
  let directory: string;
  const withFiles = (files: Record<string, string>, base: 'byte-level' | 'byte-fallback') => {
    directory = mkdtempSync(join(tmpdir(), 'hels-text-'));
    cpSync(tokenizerFixture(base), directory, { recursive: true });
    for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text);
    return directory;
  };
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  it.each([
    ['tokenizer.json', '{', /tokenizer\.json: is not JSON/],
    ['tokenizer.json', '[]', /tokenizer\.json: must hold a JSON object/],
    ['tokenizer.json', '{"added_tokens": []}', /tokenizer\.json: model is missing/],
    [
      'generation_config.json',
      '{"eos_token_id": "x"}',
      /generation_config\.json: eos_token_id: "x"/,
    ],
    ['tokenizer_config.json', '{"eos_token": "nope"}', /eos_token 'nope' is not in the vocabulary/],
    ['tokenizer_config.json', '{"chat_template": 7}', /chat_template: must be a text/],
    ['chat_template.jinja', '{% if %}', /chat_template\.jinja: is not a template/],
  ])('with a wrong %s (%s) is refused by name', async (file, text, message) => {
    await expect(TextModel.load(withFiles({ [file]: text }, 'byte-level'))).rejects.toMatchObject({
      code: 'model-invalid',
      message: expect.stringMatching(message),
    });
  });

  it('without tokenizer.json is refused by name', async () => {
    directory = mkdtempSync(join(tmpdir(), 'hels-text-'));
    await expect(TextModel.load(directory)).rejects.toMatchObject({
      code: 'model-invalid',
      message: expect.stringContaining('tokenizer.json: is missing'),
    });
  });

  it('without a chat template serves texts, and says so to a chat', async () => {
    const model = await TextModel.load(withFiles({ 'tokenizer_config.json': '{}' }, 'byte-level'));
    await expect(model.renderChat([{ role: 'user', content: 'Hi' }])).rejects.toMatchObject({
      code: 'request-invalid',
      message: expect.stringContaining('no chat template'),
    });
    expect((await model.encode('Hi', true)).length).toBe(2);
    await model.close();
  });

  it('with a template that never ends fails that chat only', async () => {
    const template =
      '{% for a in range(100000) %}{% for b in range(100000) %}{% set c = b %}{% endfor %}{% endfor %}';
    const model = await TextModel.load(
      withFiles({ 'chat_template.jinja': template }, 'byte-level'),
      {
        jobTimeoutMs: 300,
      },
    );
    const chat = model.renderChat([{ role: 'user', content: 'Hi' }]);
    const after = model.encode('Hi', true);
    await expect(chat).rejects.toMatchObject({
      code: 'request-invalid',
      message: expect.stringContaining('longer than 300 ms'),
    });
    expect(await after).toHaveLength(2);
    await model.close();
  });
});

describe('limits', () => {
  it('refuses a text that is too long before tokenizing it', async () => {
    const text = 'a'.repeat(limits.promptCharactersMax + 1);
    await expect(models['byte-level']?.encode(text, true)).rejects.toMatchObject({
      code: 'context-too-long',
    });
  });

  it('refuses more jobs than may wait', async () => {
    const jobs = Array.from({ length: limits.textJobsWaitingMax + 10 }, () =>
      (models['byte-level'] as TextModel).encode('a', true).then(
        () => 'done',
        (error: { code: string }) => error.code,
      ),
    );
    const outcomes = await Promise.all(jobs);
    expect(outcomes.filter((outcome) => outcome === 'overloaded')).toHaveLength(9);
    expect(outcomes.filter((outcome) => outcome === 'done').length).toBe(outcomes.length - 9);
  });

  it('does nothing for callers that left, and gives their places to others', async () => {
    const model = models['byte-level'] as TextModel;
    const caller = new AbortController();
    const outcomes: string[] = [];
    const note = async (name: string, job: Promise<unknown>) => {
      outcomes.push(
        await job.then(
          () => name,
          (error: { code: string }) => `${name} ${error.code}`,
        ),
      );
    };
    const running = note('running', model.encode('a', true, caller.signal));
    const left = Array.from({ length: limits.textJobsWaitingMax }, () =>
      note('left', model.encode('a', true, caller.signal)),
    );
    await note('more', model.encode('a', true));
    caller.abort(new HelsError('cancelled', 'the client went away'));
    const stays = note('stays', model.encode('a', true));
    await Promise.all([running, ...left, stays]);
    expect(outcomes).toEqual([
      'more overloaded',
      ...left.map(() => 'left cancelled'),
      'running',
      'stays',
    ]);
  });

  it('names the messages of a chat that its template makes too long', async () => {
    const messages = [{ role: 'user', content: 'a'.repeat(limits.promptCharactersMax) }];
    await expect(models['byte-level']?.encodeChat(messages)).rejects.toMatchObject({
      code: 'context-too-long',
      field: 'messages',
    });
  });
});
