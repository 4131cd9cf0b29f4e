import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { describe, expect, it } from 'vitest';
import { limits } from '../../../controller/limits.ts';
import { completion, errorOf, json, useHttpServer } from '../../support/http-completions.ts';

const http = useHttpServer();
const { start, post } = http;

describe('what is no request for us', () => {
  it.each(['stop', 'prompt', 'logit_bias', 'unknown'])(
    'is one that nests more than anybody means: %s',
    async (field) => {
      await start();
      const nested = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`;
      const bodyOf = (depth: number) => `{"model": "fake", "${field}": ${nested(depth)}}`;
      const { status, ...answer } = await post(bodyOf(50_000)).then(async (response) => ({
        status: response.status,
        ...(await errorOf(response)),
      }));
      expect([status, answer.code]).toEqual([400, 'invalid_json']);
      expect(answer.message).toContain('deeper than the 100 levels');
      // Up to there the field itself is what is wrong, if anything is.
      const within = await errorOf(await post(bodyOf(99)));
      expect(within.code).not.toBe('invalid_json');
      expect((await errorOf(await post(bodyOf(100)))).code).toBe('invalid_json');
    },
  );

  it('gets the status and the envelope of OpenAI', async () => {
    await start();
    const malformed = await post('{"model": ');
    expect([malformed.status, (await errorOf(malformed)).code]).toEqual([400, 'invalid_json']);
    const list = await post('[1]');
    expect([list.status, (await errorOf(list)).code]).toEqual([400, 'invalid_json']);
    const form = await post('a=b', { 'content-type': 'application/x-www-form-urlencoded' });
    expect([form.status, (await errorOf(form)).code]).toEqual([415, 'unsupported_media_type']);
    const zipped = await post('{}', { ...json, 'content-encoding': 'gzip' });
    expect(zipped.status).toBe(415);
    const wrongMethod = await fetch(`${http.server.url}/v1/completions`);
    expect([wrongMethod.status, wrongMethod.headers.get('allow')]).toEqual([405, 'POST']);
    const unknown = await fetch(`${http.server.url}/v1/embeddings`, { method: 'POST' });
    expect([unknown.status, (await errorOf(unknown)).code]).toEqual([404, 'unknown_url']);
    const badId = await fetch(`${http.server.url}/v1/models/%zz`);
    expect(badId.status).toBe(400);
    expect(badId.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  });

  it('may name a whole URL, as proxies do', async () => {
    await start();
    const statusOf = (path: string) =>
      new Promise((resolve, reject) => {
        const { port } = new URL(http.server.url);
        const headers = { host: 'localhost' };
        const asked = { host: '127.0.0.1', port, path, headers };
        const request = httpRequest(asked, (response) => {
          response.resume();
          resolve(response.statusCode);
        });
        request.once('error', reject).end();
      });
    expect(await statusOf('http://localhost/health?probe')).toBe(200);
    expect(await statusOf('HTTP://localhost')).toBe(200);
    expect(await statusOf('http://localhost/v1')).toBe(404);
  });

  it('is refused by its declared size, and by its real one', async () => {
    await start();
    const big = 'x'.repeat(limits.httpBodyBytesMax + 1);
    const declared = await post(big);
    expect([declared.status, (await errorOf(declared)).code]).toEqual([413, 'request_too_large']);
    const stream = new ReadableStream({
      start(controller) {
        for (let sent = 0; sent <= limits.httpBodyBytesMax; sent += 2 ** 20) {
          controller.enqueue(new Uint8Array(2 ** 20));
        }
        controller.close();
      },
    });
    const chunked = await fetch(`${http.server.url}/v1/completions`, {
      method: 'POST',
      headers: json,
      body: stream,
      duplex: 'half',
    } as RequestInit);
    expect(chunked.status).toBe(413);
    expect((await post(completion)).status).toBe(200);
  });

  it('is refused while the others that are being received fill the room for all, unless it is short', async () => {
    await start({ bodiesBytesMax: 2 ** 20 });
    const long = { ...completion, unknown: 'x'.repeat(limits.httpShortBodyBytes + 2 ** 19) };
    expect((await post(long)).status).toBe(200);
    const { port } = new URL(http.server.url);
    const slow = connect(Number(port), '127.0.0.1');
    slow.write(
      `POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${2 ** 21}\r\n\r\n${'x'.repeat(2 ** 20)}`,
    );
    await expect.poll(async () => (await post(long)).status).toBe(429);
    const full = await post(long);
    expect([full.headers.get('retry-after'), full.headers.get('connection')]).toEqual([
      '1',
      'close',
    ]);
    expect(await errorOf(full)).toMatchObject({
      code: 'overloaded',
      message: expect.stringContaining('1048576 bytes together'),
    });
    expect((await post(completion)).status).toBe(200);
    slow.destroy();
    await expect.poll(async () => (await post(long)).status).toBe(200);
  });
});

describe('state', () => {
  it('is told by health, ready, metrics, status and the page', async () => {
    await start();
    http.server.readiness.ready = false;
    http.server.readiness.reason = 'waiting for workers';
    const ready = await fetch(`${http.server.url}/ready`);
    expect([ready.status, await ready.json()]).toEqual([
      503,
      { status: 'not ready', reason: 'waiting for workers' },
    ]);
    expect(await (await fetch(`${http.server.url}/health`)).json()).toEqual({ status: 'ok' });
    await post(completion);
    const metrics = await (await fetch(`${http.server.url}/metrics`)).text();
    expect(metrics).toMatch(/hels_tokens_generated_total [1-9]/);
    expect(metrics).toContain('hels_kv_blocks_total 64');
    const status = (await (await fetch(`${http.server.url}/status`)).json()) as { status: object };
    expect(status.status).toMatchObject({ state: 'ready', modelId: 'fake' });
    const page = await fetch(http.server.url);
    expect(page.headers.get('content-security-policy')).toMatch(
      /^default-src 'none'; script-src 'sha256-/,
    );
    expect(await page.text()).not.toMatch(/https?:\/\//);
  });

  it('without a model is an empty list and 503', async () => {
    await start({ modelId: null, engine: { limits: null } });
    const models = await fetch(`${http.server.url}/v1/models`);
    expect(await models.json()).toEqual({ object: 'list', data: [] });
    const response = await post(completion);
    expect([response.status, response.headers.get('retry-after')]).toEqual([503, '1']);
    expect((await errorOf(response)).code).toBe('not_ready');
  });
});

describe('failures while an answer is made', () => {
  it('are a status before the first token: 429 when full, 503 for a lost worker', async () => {
    await start({ engine: { runningMax: 0 } });
    const full = await post({ ...completion, stream: true });
    expect([full.status, full.headers.get('retry-after')]).toEqual([429, '1']);
    expect((await errorOf(full)).code).toBe('overloaded');
    await http.server.close();
    await start({ engine: { failAfterTokens: 0 } });
    const lost = await post({ ...completion, stream: true });
    expect([lost.status, (await errorOf(lost)).code]).toEqual([503, 'worker_lost']);
  });

  it('are the last event of a stream, never silence', async () => {
    await start({ engine: { failAfterTokens: 3 } });
    const response = await post({ ...completion, stream: true });
    expect(response.status).toBe(200);
    const events = (await response.text()).trim().split('\n\n');
    expect(events.length).toBeGreaterThan(1);
    const last = JSON.parse(events.at(-1)?.replace('data: ', '') ?? '') as { error: object };
    expect(last.error).toMatchObject({ code: 'worker_lost', type: 'service_unavailable' });
    expect(events).not.toContain('data: [DONE]');
  });

  it('are the last event of a stream that has waited for its first token for long', async () => {
    const quiet = { streamQuietMs: 20 };
    await start({ engine: { tokenDelayMs: 200, failAfterTokens: 0 }, ...quiet });
    const response = await post({ ...completion, stream: true });
    expect(response.status).toBe(200);
    expect(await response.text()).toMatch(/^(: waiting\n\n)+data: {"error":.*worker_lost.*}\n\n$/);
    await http.server.close();
    await start({ engine: { tokenDelayMs: 200 }, ...quiet });
    const answer = await post({ ...completion, stream: true, max_tokens: 1 });
    expect(await answer.text()).toMatch(/^(: waiting\n\n)+data: .*data: \[DONE\]\n\n$/s);
    // What is wrong with a request is known at once.
    const wrong = await post({ ...completion, stream: true, max_tokens: 0 });
    expect(wrong.status).toBe(400);
  });

  it('of ours are not told in detail', async () => {
    const failure = new Error('secret path') as never;
    await start({ engine: { failAfterTokens: 0, failure } });
    const response = await post(completion);
    expect(response.status).toBe(500);
    const { message } = await errorOf(response);
    expect(message).not.toContain('secret');
    expect(message).toContain(response.headers.get('x-request-id'));
  });

  it('of one answer end the others of its request', async () => {
    await start({ engine: { runningMax: 2, tokenDelayMs: 2 } });
    const response = await post({ ...completion, n: 3, max_tokens: 400, ignore_eos: true });
    expect(response.status).toBe(429);
    await expect.poll(() => http.server.engine.running).toBe(0);
  });
});

describe('a priority', () => {
  it('goes to the engine, 0 unless given', async () => {
    await start();
    const messages = [{ role: 'user', content: 'Hi' }];
    for (const path of ['completions', 'chat/completions']) {
      for (const priority of [-1000, 1000, null, undefined]) {
        const body = JSON.stringify({ ...completion, messages, priority });
        const url = `${http.server.url}/v1/${path}`;
        expect((await fetch(url, { method: 'POST', headers: json, body })).status).toBe(200);
        expect(http.server.engine.requests.at(-1)?.priority).toBe(priority ?? 0);
      }
    }
  });

  it('out of range is refused with field, value and range', async () => {
    await start();
    const error = await errorOf(await post({ ...completion, priority: 1001 }));
    const message = 'priority: 1001 is not a whole number from -1000 to 1000';
    expect(error).toMatchObject({ param: 'priority', message });
  });
});

describe('a client', () => {
  it('that leaves while it waits for a whole answer frees the engine', async () => {
    await start({ engine: { tokenDelayMs: 5 } });
    const abort = new AbortController();
    const response = fetch(`${http.server.url}/v1/completions`, {
      method: 'POST',
      headers: json,
      body: JSON.stringify({ ...completion, max_tokens: 400, ignore_eos: true }),
      signal: abort.signal,
    });
    await expect.poll(() => http.server.engine.running).toBe(1);
    abort.abort();
    await expect(response).rejects.toThrow();
    await expect.poll(() => http.server.engine.running).toBe(0);
    expect(http.server.engine.aborted).toBe(1);
  });

  it('that does not read slows its own answer down instead of filling the memory', async () => {
    const limitsOfModel = {
      modelId: 'fake',
      modelDigest: 'd',
      quantization: 'none',
      numericsClass: 'exact',
    } as const;
    const contextTokensMax = 2 ** 20;
    await start({ engine: { limits: { ...limitsOfModel, contextTokensMax }, script: [] } });
    const body = JSON.stringify({
      ...completion,
      max_tokens: 1e6,
      ignore_eos: true,
      stream: true,
      n: 64,
    });
    const { port } = new URL(http.server.url);
    const socket = connect(Number(port), '127.0.0.1');
    socket.pause();
    socket.write(
      `POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    await expect.poll(() => http.server.engine.requests.length, { timeout: 10_000 }).toBe(64);
    const generated = async () =>
      Number(
        /hels_tokens_generated_total (\d+)/.exec(
          await (await fetch(`${http.server.url}/metrics`)).text(),
        )?.[1],
      );
    // The sockets' own buffers fill first; then nothing more is generated.
    let before = -1;
    await expect
      .poll(
        async () => {
          const now = await generated();
          const still = now === before;
          before = now;
          return still;
        },
        { interval: 500, timeout: 15_000 },
      )
      .toBe(true);
    expect(before).toBeGreaterThan(0);
    socket.destroy();
    await expect.poll(() => http.server.engine.running).toBe(0);
  });
});

describe('stopping', () => {
  it('lets answers end within the deadline', async () => {
    await start({ engine: { tokenDelayMs: 5 } });
    const response = post({ ...completion, max_tokens: 20, stream: true });
    await expect.poll(() => http.server.engine.running).toBe(1);
    const drained = http.server.server.drain(5_000);
    expect(await (await response).text()).toContain('data: [DONE]');
    await drained;
    await http.server.server.close();
    await expect(post(completion)).rejects.toThrow();
  });

  it('tells whoever comes meanwhile, over new connections too, for as long as the port is open', async () => {
    await start({ engine: { tokenDelayMs: 5 } });
    const running = post({ ...completion, max_tokens: 200, ignore_eos: true, stream: true });
    await expect.poll(() => http.server.engine.running).toBe(1);
    const drained = http.server.server.drain(10_000);
    const head =
      'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n';
    const refused = () =>
      new Promise<string>((resolve, reject) => {
        const socket = connect(Number(new URL(http.server.url).port), '127.0.0.1');
        let answer = '';
        socket.on('error', reject).on('close', () => resolve(answer));
        socket.on('data', (bytes) => {
          answer += bytes.toString();
        });
        socket.write(`${head}content-length: 2\r\n\r\n{`);
        setTimeout(() => socket.write('}'), 20);
      });
    const expected = /^HTTP\/1.1 503 .*connection: close\r\n.*retry-after: 1\r\n.*"draining"/is;
    expect(await refused()).toMatch(expected);
    expect((await fetch(`${http.server.url}/health`)).status).toBe(200);
    expect(await (await running).text()).toContain('data: [DONE]');
    await drained;
    expect(await refused()).toMatch(expected);
  });

  it('ends what is late with an explicit error, streamed or whole', async () => {
    await start({ engine: { tokenDelayMs: 5 } });
    const long = { ...completion, max_tokens: 400, ignore_eos: true };
    const [streamed, whole] = [post({ ...long, stream: true }), post(long)];
    await expect.poll(() => http.server.engine.running).toBe(2);
    await streamed;
    const drained = http.server.server.drain(50);
    const events = (await (await streamed).text()).trim().split('\n\n');
    expect(events.at(-1)).toContain('"code":"draining"');
    const response = await whole;
    expect([response.status, (await errorOf(response)).code]).toEqual([503, 'draining']);
    await drained;
    expect(http.server.engine.running).toBe(0);
  });
});
