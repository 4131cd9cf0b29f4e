/** An HTTP server for each test of a file, with one text model for all, and what the tests ask of it. */
import { afterAll, afterEach, beforeAll } from 'vitest';
import { TextModel } from '../../controller/tokenizer/text-model.ts';
import {
  type HttpTestOptions,
  type HttpTestServer,
  startHttpTestServer,
} from './http-test-server.ts';
import { tokenizerFixture } from './text-model.ts';

export const json = { 'content-type': 'application/json' };
export const completion = { model: 'fake', prompt: 'Hels', max_tokens: 8, temperature: 0 };

export const errorOf = async (response: Response) =>
  ((await response.json()) as { error: { code: string; message: string; param: unknown } }).error;

/** Each test starts its own, which is closed after it. */
export function useHttpServer() {
  let text: TextModel;
  let server: HttpTestServer;
  beforeAll(async () => {
    text = await TextModel.load(tokenizerFixture('byte-level'));
  });
  afterAll(() => text.close());
  afterEach(() => server.close());
  return {
    get server() {
      return server;
    },
    start: async (options: HttpTestOptions = {}) => {
      server = await startHttpTestServer({ ...options, text });
    },
    post: (body: unknown, headers: Record<string, string> = json) =>
      fetch(`${server.url}/v1/completions`, {
        method: 'POST',
        headers,
        body: typeof body === 'string' ? body : JSON.stringify(body),
      }),
  };
}
