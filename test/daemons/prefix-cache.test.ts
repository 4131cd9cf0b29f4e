/** The prefix cache as a client meets it: real daemons, the OpenAI endpoint and gRPC. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { GenerateOptions } from '../../client/sdk/index.ts';
import {
  bundledModelId,
  collect,
  idle,
  startTestCluster,
  type TestCluster,
} from '../support/daemons.ts';

let test: TestCluster;

beforeAll(async () => {
  test = await startTestCluster(['cpu?threads=1', 'cpu?threads=1&speed=0.5']);
  await test.deploy();
});

afterAll(async () => {
  await test?.stop();
});

/** 70 tokens that begin like nothing asked before, and as many of their own as wanted. */
let texts = 0;
function freshText(): number[] {
  texts += 1;
  return Array.from({ length: 70 }, (_, index) => 300 + ((index * 7 + texts * 13) % 600));
}

async function ask(promptTokenIds: number[], options: GenerateOptions = {}) {
  const given = { maxTokens: 12, ignoreEndOfText: true, ...options };
  const answer = await collect(test.cluster.client.generate({ promptTokenIds }, given));
  if (answer.finished?.type !== 'finished') throw new Error('the answer did not finish');
  return { tokenIds: answer.tokenIds, cachedTokens: answer.finished.cachedTokens };
}

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${test.cluster.httpUrl}/metrics`)).text();
  return Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)?.[1]);
}

describe('a prompt that begins like an earlier one', () => {
  it('gets the tokens it gets without the cache, and starts with the KV of whole blocks', async () => {
    const system = freshText();
    const [one, other] = [
      [...system, 400, 401],
      [...system, 500, 501, 502],
    ];
    const alone = [
      await ask(one, { prefixCache: false }),
      await ask(other, { prefixCache: false }),
    ];
    expect(alone.map(({ cachedTokens }) => cachedTokens)).toEqual([0, 0]);
    const before = await metric('hels_prefix_cache_hit_tokens_total');
    expect(await ask(one)).toEqual(alone[0]);
    expect(await ask(other)).toEqual({ ...alone[1], cachedTokens: 64 });
    expect(await ask(one)).toEqual({ ...alone[0], cachedTokens: 64 });
    expect(await metric('hels_prefix_cache_hit_tokens_total')).toBe(before + 128);
  });

  it('gets its own tokens in a crowd of such prompts too', async () => {
    const system = freshText();
    const prompts = Array.from({ length: 24 }, (_, index) => [...system, 300 + (index % 6) * 50]);
    const sampled = { temperature: 1, seed: 5, maxTokens: 20 };
    const alone = new Map<string, number[]>();
    for (const prompt of prompts.slice(0, 6)) {
      alone.set(String(prompt), (await ask(prompt, { ...sampled, prefixCache: false })).tokenIds);
    }
    const answers = await Promise.all(prompts.map((prompt) => ask(prompt, sampled)));
    answers.forEach(({ tokenIds }, index) => {
      expect(tokenIds).toEqual(alone.get(String(prompts[index])));
    });
    expect(answers.filter(({ cachedTokens }) => cachedTokens === 64).length).toBeGreaterThan(12);
    await idle(test.cluster.client);
  });

  it('shares with its own tenant only', async () => {
    const prompt = [...freshText(), 9];
    expect((await ask(prompt, { cacheSalt: 'one' })).cachedTokens).toBe(0);
    expect((await ask(prompt, { cacheSalt: 'two' })).cachedTokens).toBe(0);
    expect((await ask(prompt)).cachedTokens).toBe(0);
    expect((await ask(prompt, { cacheSalt: 'one' })).cachedTokens).toBe(64);
  });
});

describe('the OpenAI endpoint', () => {
  const usage = async (fields: object) => {
    const response = await fetch(`${test.cluster.httpUrl}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: bundledModelId, max_tokens: 1, temperature: 0, ...fields }),
    });
    const answer = (await response.json()) as { usage: object };
    return answer.usage;
  };

  it('reports what was cached, keeps salts apart, and lets a request stay out of it', async () => {
    const prompt = [...freshText(), 9];
    const counts = { prompt_tokens: 71, completion_tokens: 1, total_tokens: 72 };
    const cached = (tokens: number) => ({
      ...counts,
      prompt_tokens_details: { cached_tokens: tokens },
    });
    expect(await usage({ prompt, cache_salt: 'a' })).toEqual(cached(0));
    expect(await usage({ prompt, cache_salt: 'a' })).toEqual(cached(64));
    expect(await usage({ prompt, cache_salt: 'b' })).toEqual(cached(0));
    expect(await usage({ prompt, cache_salt: 'a', prefix_cache: false })).toEqual(cached(0));
  });
});

describe('the cache', () => {
  it('keeps nothing in use, ends with its epoch, and can be switched off for a deployment', async () => {
    const { client } = test.cluster;
    const prompt = [...freshText(), 9];
    await ask(prompt);
    await idle(client);
    const status = await client.status();
    expect(status).toMatchObject({ prefixCache: true, kvBlocksUsed: 0 });
    expect(status.kvBlocksCached).toBeGreaterThan(4);
    expect(status.prefixQueryTokens).toBeGreaterThan(status.prefixHitTokens);
    const alone = await ask(prompt);
    expect(alone.cachedTokens).toBe(64);
    await test.deploy();
    expect(await ask(prompt)).toEqual({ ...alone, cachedTokens: 0 });
    await test.deploy({ prefixCache: false });
    await ask(prompt);
    expect(await ask(prompt)).toEqual({ ...alone, cachedTokens: 0 });
    expect(await client.status()).toMatchObject({
      prefixCache: false,
      kvBlocksCached: 0,
      prefixQueryTokens: 0,
    });
  }, 60_000);
});
