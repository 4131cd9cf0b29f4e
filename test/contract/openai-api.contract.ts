/** What OpenAI's own client must be able to do with a server of ours, whatever computes the tokens. */
import OpenAI, { APIError, BadRequestError, NotFoundError } from 'openai';
import { beforeAll, describe, expect, it } from 'vitest';

export interface OpenAiTarget {
  /** http://host:port, known once the server runs. */
  baseUrl: string;
  model: string;
  /** Most tokens of prompt and answer together. */
  contextTokensMax: number;
  /** Resolves when no request runs and no KV block is used; rejects when that does not come. */
  idle(): Promise<void>;
}

const question = [{ role: 'user' as const, content: 'What is Hels?' }];

/** Every test asks for the target anew, so that it may be started in a beforeAll of the caller. */
export function openaiContract(provide: () => OpenAiTarget): void {
  let target: OpenAiTarget;
  let client: OpenAI;
  let model: string;
  beforeAll(() => {
    target = provide();
    model = target.model;
    client = new OpenAI({ baseURL: `${target.baseUrl}/v1`, apiKey: 'none', maxRetries: 0 });
  });

  const complete = async (options: Partial<OpenAI.CompletionCreateParamsNonStreaming> = {}) =>
    client.completions.create({
      model,
      prompt: 'Hels splits',
      max_tokens: 24,
      temperature: 0,
      ...options,
    });

  const failure = async (call: Promise<unknown>): Promise<APIError> => {
    const error = await call.then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(APIError);
    return error as APIError;
  };

  describe('models', () => {
    it('lists and retrieves the model', async () => {
      const { data } = await client.models.list();
      expect(data.map(({ id, object }) => ({ id, object }))).toEqual([
        { id: model, object: 'model' },
      ]);
      expect((await client.models.retrieve(model)).id).toBe(model);
    });

    it('says that another model is not there', async () => {
      const error = await failure(client.models.retrieve('someone/else'));
      expect(error).toBeInstanceOf(NotFoundError);
      expect(error.code).toBe('model_not_found');
    });
  });

  describe('completions', () => {
    it('completes a text, with usage', async () => {
      const answer = await complete({ max_tokens: 8 });
      const { text, finish_reason: reason } = answer.choices[0] ?? {};
      expect(text?.length).toBeGreaterThan(0);
      expect(['stop', 'length']).toContain(reason);
      const { usage } = answer;
      expect(usage?.prompt_tokens).toBeGreaterThan(0);
      expect(usage?.completion_tokens).toBeLessThanOrEqual(8);
      expect(usage?.total_tokens).toBe(
        (usage?.prompt_tokens ?? 0) + (usage?.completion_tokens ?? 0),
      );
    });

    it('gives a list of prompts the answers that each gets alone, in order', async () => {
      const prompts = ['Hels splits', 'Every head', 'A token is'];
      const together = await complete({ prompt: prompts });
      const alone = await Promise.all(prompts.map((prompt) => complete({ prompt })));
      expect(together.choices.map((choice) => choice.text)).toEqual(
        alone.map((answer) => answer.choices[0]?.text),
      );
      expect(together.choices.map((choice) => choice.index)).toEqual([0, 1, 2]);
    });

    it('takes token ids', async () => {
      const one = await complete({ prompt: [40, 41, 42] });
      const same = await complete({ prompt: [[40, 41, 42]] });
      expect(one.usage?.prompt_tokens).toBe(3);
      expect(same.choices[0]?.text).toBe(one.choices[0]?.text);
    });

    it('streams the very text it answers whole', async () => {
      const whole = await complete();
      const stream = await client.completions.create({
        model,
        prompt: 'Hels splits',
        max_tokens: 24,
        temperature: 0,
        stream: true,
      });
      let text = '';
      let reason: string | null = null;
      for await (const chunk of stream) {
        text += chunk.choices[0]?.text ?? '';
        reason = chunk.choices[0]?.finish_reason ?? reason;
      }
      expect(text).toBe(whole.choices[0]?.text);
      expect(reason).toBe(whole.choices[0]?.finish_reason);
    });

    it('gives logprobs, one per token, best first', async () => {
      const { choices, usage } = await complete({ max_tokens: 6, logprobs: 3 });
      const logprobs = choices[0]?.logprobs;
      expect(logprobs?.tokens).toHaveLength(usage?.completion_tokens ?? -1);
      for (const value of logprobs?.token_logprobs ?? []) expect(value).toBeLessThanOrEqual(0);
      for (const top of logprobs?.top_logprobs ?? []) {
        const values = Object.values(top);
        expect(values.length).toBeLessThanOrEqual(3);
        expect(values).toEqual([...values].sort((a, b) => b - a));
      }
      expect(logprobs?.text_offset?.[0]).toBe(0);
    });
  });

  describe('stop strings', () => {
    it('cut the text exactly, also across tokens, whole and streamed', async () => {
      const full = (await complete()).choices[0]?.text ?? '';
      expect(full.length).toBeGreaterThan(8);
      for (const [begin, end] of [
        [2, 7],
        [3, 4],
        [full.length - 3, full.length],
      ]) {
        const stop = full.slice(begin, end);
        const expected = full.slice(0, full.indexOf(stop));
        const answer = await complete({ stop: ['\u0000never', stop] });
        expect(answer.choices[0]).toMatchObject({ text: expected, finish_reason: 'stop' });
        const stream = await client.completions.create({
          model,
          prompt: 'Hels splits',
          max_tokens: 24,
          temperature: 0,
          stop,
          stream: true,
        });
        let text = '';
        for await (const chunk of stream) text += chunk.choices[0]?.text ?? '';
        expect(text).toBe(expected);
      }
      await target.idle();
    });
  });

  describe('chat', () => {
    it('answers whole', async () => {
      const answer = await client.chat.completions.create({
        model,
        messages: question,
        max_completion_tokens: 16,
        temperature: 0,
      });
      expect(answer.object).toBe('chat.completion');
      expect(answer.choices[0]?.message.role).toBe('assistant');
      expect(answer.choices[0]?.message.content?.length).toBeGreaterThan(0);
    });

    it('streams role, text, reason and, when asked, usage', async () => {
      const parameters = { model, messages: question, max_tokens: 16, temperature: 0 };
      const whole = await client.chat.completions.create(parameters);
      const stream = await client.chat.completions.create({
        ...parameters,
        stream: true,
        stream_options: { include_usage: true },
      });
      const chunks: OpenAI.ChatCompletionChunk[] = [];
      for await (const chunk of stream) chunks.push(chunk);
      expect(chunks[0]?.choices[0]?.delta.role).toBe('assistant');
      expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')).toBe(
        whole.choices[0]?.message.content,
      );
      expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe(whole.choices[0]?.finish_reason);
      expect(chunks.at(-1)?.choices).toEqual([]);
      // What was cached may differ: the second one finds what the first one left.
      const { prompt_tokens_details: details, ...counts } = chunks.at(-1)?.usage ?? {};
      expect(whole.usage).toMatchObject(counts);
      expect(details?.cached_tokens).toBeLessThan(whole.usage?.prompt_tokens ?? 0);
      for (const chunk of chunks.slice(0, -1)) expect(chunk.usage).toBeNull();
      expect(new Set(chunks.map((chunk) => chunk.id)).size).toBe(1);
    });

    it('takes text parts as one text', async () => {
      const parameters = { model, max_tokens: 8, temperature: 0 };
      const whole = await client.chat.completions.create({ ...parameters, messages: question });
      const parts = await client.chat.completions.create({
        ...parameters,
        messages: [
          {
            role: 'user',
            content: [
              { type: 'text', text: 'What is ' },
              { type: 'text', text: 'Hels?' },
            ],
          },
        ],
      });
      expect(parts.choices[0]?.message.content).toBe(whole.choices[0]?.message.content);
    });

    it('repeats a sampled answer for its seed, and tells the seed it drew', async () => {
      const ask = (seed: number | null) =>
        client.chat.completions.create({
          model,
          messages: question,
          max_tokens: 16,
          temperature: 1,
          seed,
        });
      const drawn = await ask(null);
      const { seed } = (drawn as unknown as { hels: { seed: number } }).hels;
      expect(Number.isSafeInteger(seed)).toBe(true);
      expect((await ask(seed)).choices[0]?.message).toEqual(drawn.choices[0]?.message);
    });

    it('goes on from 0 after the largest seed', async () => {
      const ask = async (seed: number, n: number) => {
        const sampling = { model, messages: question, max_tokens: 12, temperature: 2, seed, n };
        const answer = await client.chat.completions.create(sampling);
        const { hels } = answer as unknown as { hels: { seed: number } };
        return { seed: hels.seed, texts: answer.choices.map(({ message }) => message.content) };
      };
      const last = Number.MAX_SAFE_INTEGER;
      const [wrapped, alone, zero] = await Promise.all([ask(last, 3), ask(last, 1), ask(0, 2)]);
      expect(wrapped).toEqual({ seed: last, texts: [...alone.texts, ...zero.texts] });
      expect(new Set(wrapped.texts).size).toBe(3);
    });

    it('gives n answers, the same n for the same seed', async () => {
      const ask = () =>
        client.chat.completions.create({
          model,
          messages: question,
          max_tokens: 12,
          temperature: 2,
          seed: 5,
          n: 3,
        });
      const [first, again] = await Promise.all([ask(), ask()]);
      const contents = first.choices.map((choice) => choice.message.content);
      expect(first.choices.map((choice) => choice.index)).toEqual([0, 1, 2]);
      expect(new Set(contents).size).toBeGreaterThan(1);
      expect(again.choices.map((choice) => choice.message.content)).toEqual(contents);
    });

    it('gives logprobs of tokens, with bytes', async () => {
      const { choices, usage } = await client.chat.completions.create({
        model,
        messages: question,
        max_tokens: 5,
        temperature: 0,
        logprobs: true,
        top_logprobs: 2,
      });
      const content = choices[0]?.logprobs?.content ?? [];
      expect(content).toHaveLength(usage?.completion_tokens ?? -1);
      expect(content[0]?.top_logprobs).toHaveLength(2);
      expect(content[0]?.logprob).toBeLessThanOrEqual(0);
      expect(content[0]?.bytes?.length).toBeGreaterThan(0);
    });
  });

  describe('errors', () => {
    it('names a model that is not served', async () => {
      const error = await failure(
        client.chat.completions.create({ model: 'other', messages: question }),
      );
      expect(error).toBeInstanceOf(NotFoundError);
      expect(error).toMatchObject({ status: 404, code: 'model_not_found', param: 'model' });
    });

    it('refuses a prompt or an answer that does not fit', async () => {
      const long = await failure(complete({ prompt: 'word '.repeat(target.contextTokensMax) }));
      expect(long).toMatchObject({ status: 400, code: 'context_length_exceeded' });
      const answer = await failure(complete({ max_tokens: target.contextTokensMax }));
      expect(answer).toMatchObject({ status: 400, code: 'context_length_exceeded' });
    });

    it.each<[string, object]>([
      ['temperature', { temperature: 'warm' }],
      ['temperature', { temperature: 3 }],
      ['top_p', { top_p: 0 }],
      ['top_k', { top_k: -2 }],
      ['stop_token_ids', { stop_token_ids: 7 }],
      ['stop_token_ids[1]', { stop_token_ids: [1, 'end'] }],
      ['stop_token_ids[1]', { stop_token_ids: [1, 99_999_999] }],
      ['stop_token_ids', { stop_token_ids: Array.from({ length: 65 }, () => 1) }],
      ['max_tokens', { max_tokens: 0 }],
      ['max_tokens', { max_tokens: 1.5 }],
      ['min_tokens', { min_tokens: -1 }],
      ['min_tokens', { min_tokens: 5 }],
      ['n', { n: 0 }],
      ['n', { n: 1000 }],
      ['seed', { seed: -1 }],
      ['stop', { stop: 7 }],
      ['stop', { stop: ['a', 'b', 'c', 'd', 'e'] }],
      ['stream', { stream: 'yes' }],
      ['cache_salt', { cache_salt: '' }],
      ['cache_salt', { cache_salt: 'x'.repeat(257) }],
      ['cache_salt', { cache_salt: 7 }],
      ['prefix_cache', { prefix_cache: 'no' }],
      ['priority', { priority: 'high' }],
      ['priority', { priority: 1001 }],
      ['priority', { priority: -1001 }],
      ['priority', { priority: 0.5 }],
      ['messages', { messages: 'Hi' }],
      ['messages', { messages: [] }],
      ['messages[0].role', { messages: [{ role: 'robot', content: 'Hi' }] }],
      ['messages[0].content', { messages: [{ role: 'user', content: 5 }] }],
      [
        'messages[0].content[0].type',
        { messages: [{ role: 'user', content: [{ type: 'image_url' }] }] },
      ],
      ['frequency_penalty', { frequency_penalty: 0.5 }],
      ['presence_penalty', { presence_penalty: -1 }],
      ['logit_bias', { logit_bias: { '5': 1 } }],
      ['tools', { tools: [{ type: 'function', function: { name: 'f' } }] }],
      ['response_format', { response_format: { type: 'json_object' } }],
      ['top_logprobs', { logprobs: true, top_logprobs: 21 }],
    ])('names the field %s for %j', async (param, fields) => {
      const body = { model, messages: question, max_tokens: 4, ...fields };
      const error = await failure(
        client.chat.completions.create(body as never) as Promise<unknown>,
      );
      expect(error).toBeInstanceOf(BadRequestError);
      expect(error).toMatchObject({ status: 400, type: 'invalid_request_error', param });
      expect(error.message).toContain(param);
    });

    it.each<[string, object]>([
      ['echo', { echo: true }],
      ['best_of', { best_of: 4 }],
      ['suffix', { suffix: 'end' }],
      ['prompt', { prompt: [] }],
      ['prompt', { prompt: { text: 'x' } }],
      ['prompt[1]', { prompt: [5, 99_999_999] }],
      ['logprobs', { logprobs: 50 }],
    ])('names the completion field %s for %j', async (param, fields) => {
      expect(await failure(complete(fields))).toMatchObject({ status: 400, param });
    });

    it('ignores fields it does not know and those that are off', async () => {
      const off = { frequency_penalty: 0, ...{ top_k: -1, n_predict: -1 } };
      const answer = await complete({ user: 'someone', ...off, max_tokens: 2 });
      expect(answer.choices).toHaveLength(1);
    });
  });

  describe('streams', () => {
    it('free everything when the client leaves in mid-stream', async () => {
      const stream = await client.chat.completions.create({
        model,
        messages: question,
        stream: true,
        ...{ ignore_eos: true },
      });
      let chunks = 0;
      for await (const _ of stream) {
        chunks += 1;
        if (chunks === 3) break;
      }
      await target.idle();
    });

    it('run 64 at once, each with the text it has alone', async () => {
      const prompts = Array.from({ length: 64 }, (_, i) => `Question ${i % 8}:`);
      const alone = new Map<string, string | undefined>();
      for (const prompt of new Set(prompts)) {
        alone.set(prompt, (await complete({ prompt, max_tokens: 20 })).choices[0]?.text);
      }
      const texts = await Promise.all(
        prompts.map(async (prompt) => {
          const stream = await client.completions.create({
            model,
            prompt,
            max_tokens: 20,
            temperature: 0,
            stream: true,
          });
          let text = '';
          for await (const chunk of stream) text += chunk.choices[0]?.text ?? '';
          return text;
        }),
      );
      expect(texts).toEqual(prompts.map((prompt) => alone.get(prompt)));
      await target.idle();
    });
  });
}
