import { afterAll, beforeAll } from 'vitest';
import { type HttpTestServer, startHttpTestServer } from '../support/http-test-server.ts';
import { openaiContract } from './openai-api.contract.ts';

let server: HttpTestServer;

beforeAll(async () => {
  server = await startHttpTestServer({ engine: { tokenDelayMs: 1 } });
});
afterAll(() => server.close());

openaiContract(() => ({
  baseUrl: server.url,
  model: 'fake',
  contextTokensMax: 512,
  async idle() {
    for (let attempt = 0; attempt < 100; attempt += 1) {
      if (server.engine.running === 0) return;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    throw new Error(`${server.engine.running} requests still run after 2 s`);
  },
}));
