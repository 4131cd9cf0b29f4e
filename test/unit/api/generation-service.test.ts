import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TextRequest } from '../../../controller/api/generation-request.ts';
import type {
  GenerationService,
  PreparedText,
  TextEvent,
} from '../../../controller/api/generation-service.ts';
import { TextModel } from '../../../controller/tokenizer/text-model.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { FakeEngineOptions } from '../../support/fake-generation-engine.ts';
import { tokenizerFixture } from '../../support/text-model.ts';
import { request, serviceOver } from './generation-setting.ts';

let text: TextModel;
beforeAll(async () => {
  text = await TextModel.load(tokenizerFixture('byte-level'));
});
afterAll(() => text.close());

const setUp = (options: Partial<FakeEngineOptions> = {}, model: TextModel = text) =>
  serviceOver(model, options);

async function collect(service: GenerationService, asked: TextRequest, signal?: AbortSignal) {
  const context = { arrivalMs: 600, signal: signal ?? new AbortController().signal };
  const events: TextEvent[] = [];
  for await (const event of service.generate(asked, context)) events.push(event);
  const deltas = events.filter((event) => event.type === 'delta');
  return {
    started: events.find((event) => event.type === 'started'),
    deltas,
    text: deltas.map((delta) => delta.text).join(''),
    tokenIds: deltas.flatMap((delta) => delta.tokenIds),
    finished: events.find((event) => event.type === 'finished'),
  };
}

const leaves = new AbortController().signal;

describe('an answer', () => {
  it('without a bound has the room that is there once the prompt is tokenized', async () => {
    const { service, engine } = setUp();
    const { limits } = engine.options;
    if (limits === null) throw new Error('no limits');
    const input = { type: 'text', text: 'a plan with less KV comes meanwhile' } as const;
    const preparing = service.prepare(request({ input, maxTokens: null }), leaves);
    engine.options.limits = { ...limits, contextTokensMax: 100 };
    const { maxTokens, promptTokenIds } = await preparing;
    expect(promptTokenIds.length + maxTokens).toBe(100);
  });

  it('begins with what is needed to continue it elsewhere', async () => {
    const { started } = await collect(setUp().service, request());
    expect(started).toEqual({
      type: 'started',
      requestId: 'id-1',
      seed: 77,
      modelDigest: 'd'.repeat(64),
      quantization: 'none',
      numericsClass: 'exact',
      promptTokenIds: [10, 11, 12],
    });
  });

  it('ends with counts and times: TTFT from arrival, TPOT between first and last token', async () => {
    const { service, registry } = setUp();
    const { finished } = await collect(service, request({ maxTokens: 5 }));
    expect(finished).toMatchObject({ reason: 'length', promptTokens: 3, completionTokens: 5 });
    expect(finished?.timeToFirstTokenSeconds).toBeCloseTo(0.5);
    expect(finished?.timePerOutputTokenSeconds).toBeCloseTo(0.1);
    const metrics = await registry.metrics();
    expect(metrics).toContain('hels_tokens_generated_total 5');
    expect(metrics).toContain('hels_time_to_first_token_seconds_sum 0.5');
    expect(metrics).toContain('hels_inter_token_latency_seconds_count 4');
    expect(metrics).toContain('hels_requests_total{outcome="length"} 1');
  });

  it('has as many tokens as fit when none are named', async () => {
    const { service, engine } = setUp();
    const { finished } = await collect(service, request({ maxTokens: null }));
    expect(finished?.completionTokens).toBe(509);
    expect(engine.requests[0]?.maxTokens).toBe(509);
  });

  it('ends at an end-of-text token, which is delivered without text', async () => {
    const { service } = setUp({ script: [76, 0, 77] });
    const answer = await collect(service, request({ ignoreEndOfText: false }));
    expect(answer.tokenIds).toEqual([76, 0]);
    expect(answer.finished).toMatchObject({ reason: 'stop', completionTokens: 2 });
    expect(answer.text).toBe(text.decode([76]));
  });

  it('ends at a stop token too, which is part of the text, whatever the end of text is worth', async () => {
    const stopTokenIds = [9, 78];
    for (const ignoreEndOfText of [true, false]) {
      const { service, engine } = setUp({ script: [76, 78, 77] });
      const answer = await collect(service, request({ stopTokenIds, ignoreEndOfText }));
      expect(answer.tokenIds).toEqual([76, 78]);
      expect(answer.text).toBe(text.decode([76, 78]));
      expect(answer.finished).toMatchObject({ reason: 'stop', completionTokens: 2 });
      const endIds = ignoreEndOfText ? [] : text.endOfTextIds;
      expect(engine.requests[0]?.stopTokenIds).toEqual([...endIds, ...stopTokenIds]);
    }
  });

  it('streams characters that several tokens make', async () => {
    const written = 'あい👨‍👩‍👧語';
    const script = await text.encode(written, false);
    const { service } = setUp({ script });
    const { deltas, text: answer } = await collect(service, request({ maxTokens: script.length }));
    expect(answer).toBe(written);
    expect(deltas.length).toBe(script.length);
  });

  it('tells the engine who shares KV, and the client what it got of it', async () => {
    const { service, engine } = setUp({ cachedTokens: 2 });
    const { finished } = await collect(service, request({ maxTokens: 1 }));
    expect(finished?.cachedTokens).toBe(2);
    await collect(service, request({ maxTokens: 1, cacheSalt: 'tenant' }));
    await collect(service, request({ maxTokens: 1, cacheSalt: 'tenant', prefixCache: false }));
    expect(engine.requests.map(({ prefixCache }) => prefixCache)).toEqual([
      { salt: '' },
      { salt: 'tenant' },
      null,
    ]);
  });

  it('counts no more of the prompt as cached than it has: the rest were tokens of resume', async () => {
    const { service } = setUp({ cachedTokens: 4 });
    const resume = { tokenIds: [20, 21, 22], seed: 1 };
    const { finished } = await collect(service, request({ maxTokens: 5, resume }));
    expect(finished).toMatchObject({ promptTokens: 3, cachedTokens: 3 });
  });

  it.each([0, -1])('takes top_k %i for off', async (topK) => {
    const { service, engine } = setUp();
    await collect(service, request({ topK, maxTokens: 1 }));
    expect(engine.requests[0]?.sampling.topK).toBe(0);
  });

  it('treats a temperature next to 0 as 0', async () => {
    const { service, engine } = setUp();
    await collect(service, request({ temperature: 1e-6, maxTokens: 1 }));
    expect(engine.requests[0]?.sampling.temperature).toBe(0);
  });
});

describe('resume', () => {
  it('counts an answer that breaks before the engine is asked, once', async () => {
    const { service, registry } = setUp();
    const broken = {
      push: () => {
        throw new Error('no such token');
      },
    };
    const resumed = request({ resume: { tokenIds: [20], seed: 1 } });
    const prepared = await service.prepare(resumed, leaves);
    const model = { ...prepared.model, text: { endOfTextIds: [], detokenizer: () => broken } };
    const context = { arrivalMs: 600, signal: new AbortController().signal };
    const answer = service.run({ ...prepared, model } as unknown as PreparedText, context);
    await expect(answer.next()).rejects.toMatchObject({ code: 'internal' });
    expect(await registry.metrics()).toMatch(/requests_total\{outcome="internal"\} 1/);
  });

  it('goes on after any token with the tokens and the text that were still to come', async () => {
    const { service } = setUp();
    const sampled = { temperature: 1, stop: ['\uFFFDzz', 'never'] };
    const whole = await collect(service, request(sampled));
    for (let had = 0; had <= whole.tokenIds.length; had += 1) {
      const resume = { tokenIds: whole.tokenIds.slice(0, had), seed: 77 };
      const rest = await collect(service, request({ ...sampled, seed: 1, resume }));
      const hadText = whole.deltas.slice(0, had).map((delta) => delta.text);
      expect(rest.tokenIds).toEqual(whole.tokenIds.slice(had));
      expect(hadText.join('') + rest.text).toBe(whole.text);
      expect(rest.finished).toMatchObject({ reason: 'length', completionTokens: 20 });
    }
  });

  it('ends at once when the tokens end the text already', async () => {
    const { service, engine } = setUp();
    const resume = { tokenIds: [76, 0], seed: 1 };
    const { finished } = await collect(service, request({ resume, ignoreEndOfText: false }));
    expect(finished).toMatchObject({ reason: 'stop', completionTokens: 2 });
    const stopped = { tokenIds: [76, 80], seed: 1 };
    const once = await collect(service, request({ resume: stopped, stopTokenIds: [80] }));
    expect(once.finished).toMatchObject({ reason: 'stop', completionTokens: 2 });
    const stop = [text.decode([80, 81])];
    const again = await collect(
      service,
      request({ resume: { tokenIds: [80, 81], seed: 1 }, stop }),
    );
    expect(again.finished).toMatchObject({ reason: 'stop', completionTokens: 2 });
    expect(engine.requests).toEqual([]);
  });
});

describe('text held back at the end', () => {
  it('comes without tokens, also to one who resumes with all of them', async () => {
    const script = await text.encode('number 1#', false);
    const { service, engine } = setUp({ script });
    const asked = request({ stop: ['###'], maxTokens: script.length });
    const whole = await collect(service, asked);
    expect(whole.text).toBe('number 1#');
    const resume = { tokenIds: script, seed: 77 };
    const rest = await collect(service, { ...asked, resume });
    expect(rest.deltas).toEqual([{ type: 'delta', text: '#', tokenIds: [], logprobs: [] }]);
    expect(rest.finished).toMatchObject({ reason: 'length', completionTokens: script.length });
    expect(engine.requests.length).toBe(1);
    const end = { tokenIds: [...script, 0], seed: 77 };
    const ended = await collect(service, {
      ...request({ stop: ['###'], ignoreEndOfText: false }),
      resume: end,
    });
    expect([ended.text, ended.finished?.reason]).toEqual(['#', 'stop']);
  });

  it('is nothing after a stop string', async () => {
    const script = await text.encode('a##b', false);
    const { service } = setUp({ script });
    const asked = request({ stop: ['##'], maxTokens: script.length });
    const whole = await collect(service, asked);
    const resume = { tokenIds: whole.tokenIds, seed: 77 };
    const rest = await collect(service, { ...asked, resume });
    expect([whole.text, rest.deltas, rest.finished?.reason]).toEqual(['a', [], 'stop']);
  });
});

describe('the offset of a token', () => {
  it('counts code points to where its own text begins, held back or not', async () => {
    const script = await text.encode('😀#a😀b', false);
    const { service } = setUp({ script });
    const asked = request({ logprobs: 0, stop: ['#a😀c'], maxTokens: script.length });
    const { deltas, text: answer } = await collect(service, asked);
    expect(answer).toBe('😀#a😀b');
    const offsets = deltas.flatMap(({ logprobs }) => logprobs.map(({ textOffset }) => textOffset));
    const ends = script.map((_, i) => [...text.decode(script.slice(0, i)).replace(/\uFFFD+$/, '')]);
    expect(offsets).toEqual(ends.map((characters) => characters.length));
    expect(offsets.at(-1)).toBe(4);
  });
});

const chatOf = (...lengths: number[]) =>
  lengths.map((length) => ({ role: 'user', content: 'a'.repeat(length) }));

describe('a failure', () => {
  it('of the engine is thrown, and counted', async () => {
    const { service, registry } = setUp({ failAfterTokens: 3 });
    await expect(collect(service, request())).rejects.toMatchObject({ code: 'worker-lost' });
    expect(await registry.metrics()).toContain('hels_requests_total{outcome="worker-lost"} 1');
  });

  it('is the reason the edge gave when the edge ended the request', async () => {
    const { service, engine } = setUp({ tokenDelayMs: 5 });
    const abort = new AbortController();
    const answer = collect(service, request({ maxTokens: 200 }), abort.signal);
    setTimeout(() => abort.abort(new HelsError('draining', 'stopping')), 30);
    await expect(answer).rejects.toMatchObject({ code: 'draining' });
    expect(engine.running).toBe(0);
  });

  it('of a request is found before the engine sees it', async () => {
    const { service, engine } = setUp();
    const wrong: [Partial<TextRequest>, object][] = [
      [{ model: 'other' }, { code: 'model-not-found', field: 'model' }],
      [{ temperature: Number.NaN }, { code: 'request-invalid', field: 'temperature' }],
      [{ topP: 1.5 }, { code: 'request-invalid', field: 'top_p' }],
      [{ topP: 1e-300 }, { field: 'top_p', message: expect.stringContaining('1e-300') }],
      [{ topP: Number.NaN }, { code: 'request-invalid', field: 'top_p' }],
      [{ topK: -2 }, { code: 'request-invalid', field: 'top_k' }],
      [{ seed: 2 ** 53 }, { code: 'request-invalid', field: 'seed' }],
      [{ stop: [''] }, { code: 'request-invalid', field: 'stop' }],
      [{ stopTokenIds: Array(65).fill(9) }, { field: 'stop_token_ids' }],
      [{ stopTokenIds: [9, 1e6] }, { field: 'stop_token_ids[1]' }],
      [{ priority: -1001 }, { code: 'request-invalid', field: 'priority' }],
      [{ priority: 1001 }, { code: 'request-invalid', field: 'priority' }],
      [{ priority: 0.5 }, { code: 'request-invalid', field: 'priority' }],
      [{ cacheSalt: '' }, { code: 'request-invalid', field: 'cache_salt' }],
      [{ maxTokens: 510 }, { code: 'context-too-long' }],
      [{ input: { type: 'tokens', tokenIds: [] } }, { code: 'request-invalid', field: 'prompt' }],
      [{ input: { type: 'tokens', tokenIds: [5, -1] } }, { field: 'prompt[1]' }],
      [{ input: { type: 'text', text: '' } }, { code: 'request-invalid', field: 'prompt' }],
      [{ input: { type: 'chat', messages: [] } }, { field: 'messages' }],
      [{ input: { type: 'text', text: 'a'.repeat(2 ** 20 + 1) } }, { field: 'prompt' }],
      [
        { input: { type: 'chat', messages: chatOf(2 ** 19, 2 ** 19 + 1) } },
        {
          code: 'context-too-long',
          field: 'messages',
          message:
            'messages: 1048577 characters are more than the 1048576 one prompt may have; send less text',
        },
      ],
      [{ resume: { tokenIds: [1e9], seed: 0 } }, { field: 'resume.token_ids[0]' }],
    ];
    for (const [fields, error] of wrong) {
      await expect(collect(service, request(fields))).rejects.toMatchObject(error);
    }
    expect(engine.requests).toEqual([]);
  });

  it('takes the smallest top_p that a rank can tell from 0', async () => {
    const { service, engine } = setUp();
    await collect(service, request({ topP: 1e-45 }));
    expect(engine.requests).toHaveLength(1);
  });

  it('is a token of the prompt that the model has no row for', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'hels-text-'));
    cpSync(tokenizerFixture('byte-level'), directory, { recursive: true });
    writeFileSync(join(directory, 'config.json'), '{"vocab_size": 3}');
    const fewRows = await TextModel.load(directory);
    try {
      expect(fewRows.strayTokenIds).toHaveLength(296);
      const { service, engine } = setUp({}, fewRows);
      const tokens = { type: 'text', text: '<|user|><|assistant|>' } as const;
      const chat = { type: 'chat', messages: [{ role: 'user', content: '' }] } as const;
      for (const [input, field] of [
        [tokens, 'prompt'],
        [chat, 'messages'],
      ] as const) {
        await expect(collect(service, request({ input }))).rejects.toMatchObject({
          code: 'request-invalid',
          field,
          message: expect.stringContaining(
            '; the model computes with tokens 0 to 2 only; leave it out',
          ),
        });
      }
      expect(engine.requests).toEqual([]);
    } finally {
      await fewRows.close();
      rmSync(directory, { recursive: true });
    }
  });

  it('says not-ready while nothing is served', async () => {
    const { service } = setUp({ limits: null });
    await expect(collect(service, request())).rejects.toMatchObject({ code: 'not-ready' });
  });
});

describe('leaving early', () => {
  it('frees the engine when the consumer stops reading', async () => {
    const { service, engine } = setUp();
    const context = { arrivalMs: 0, signal: new AbortController().signal };
    for await (const event of service.generate(request({ maxTokens: 200 }), context)) {
      if (event.type === 'delta') break;
    }
    expect(engine.running).toBe(0);
  });

  it('frees the engine when a stop string ends the answer', async () => {
    const { service, engine } = setUp({ script: [80, 81, 82, 83] });
    const answer = await collect(service, request({ stop: [text.decode([81, 82])] }));
    expect(answer.text).toBe(text.decode([80]));
    expect(answer.finished).toMatchObject({ reason: 'stop', completionTokens: 3 });
    expect(engine.running).toBe(0);
  });
});

describe('the space before the first word', () => {
  let words: TextModel;
  let whole: number[];
  beforeAll(async () => {
    words = await TextModel.load(tokenizerFixture('byte-fallback'));
    whole = await words.encode('the cat sat', true);
  });
  afterAll(() => words.close());

  it('is there when a prompt is continued, also resumed; a chat answers without one', async () => {
    const the = (await words.encode('the', true)).length;
    const script = whole.slice(the);
    const { service } = setUp({ script }, words);
    const asked = request({ maxTokens: script.length });
    const inputs: [TextRequest['input'], string][] = [
      [{ type: 'text', text: 'the' }, ' cat sat'],
      [{ type: 'tokens', tokenIds: whole.slice(0, the) }, ' cat sat'],
      [{ type: 'chat', messages: [{ role: 'user', content: 'the' }] }, 'cat sat'],
    ];
    for (const [input, expected] of inputs) {
      expect((await collect(service, { ...asked, input })).text).toBe(expected);
    }
    const [input] = inputs[0] as [TextRequest['input'], string];
    for (let had = 1; had < script.length; had += 1) {
      const again = setUp({ script: script.slice(had) }, words).service;
      const resume = { tokenIds: script.slice(0, had), seed: 1 };
      const before = (await collect(service, { ...asked, input, maxTokens: had })).text;
      const rest = await collect(again, { ...asked, input, resume });
      expect(before + rest.text).toBe(' cat sat');
    }
  });
});
