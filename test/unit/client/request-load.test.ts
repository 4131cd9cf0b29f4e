import { describe, expect, it } from 'vitest';
import {
  loadReportOf,
  promptOf,
  type RequestLoad,
  runRequestLoad,
} from '../../../client/helsctl/request-load.ts';
import type { GenerateOptions, HelsClient } from '../../../client/sdk/index.ts';
import { HelsError } from '../../../proto/domain/errors.ts';

const load: RequestLoad = {
  streams: 2,
  requests: 5,
  promptTokens: 4,
  outputTokens: 3,
  seed: 7,
  model: '',
  priority: -3,
};

/** A server whose tokens come one millisecond after the other; request `failing` has no room. */
function madeUp(failing: number) {
  let nowMs = 0;
  const asked: { input: unknown; options: GenerateOptions }[] = [];
  let underWay = 0;
  let mostUnderWay = 0;
  async function* generate(input: unknown, options: GenerateOptions) {
    const number = asked.push({ input, options });
    underWay += 1;
    mostUnderWay = Math.max(mostUnderWay, underWay);
    try {
      await new Promise((resolve) => setImmediate(resolve));
      if (number === failing) throw new HelsError('overloaded', 'no room');
      for (let token = 0; token < (options.maxTokens ?? 0); token += 1) {
        nowMs += 1;
        yield { type: 'delta', text: 'a', tokenIds: [token] };
      }
      yield { type: 'delta', text: 'held back', tokenIds: [] };
    } finally {
      underWay -= 1;
    }
  }
  const client = { generate } as unknown as HelsClient;
  return { client, asked, now: () => nowMs, most: () => mostUnderWay };
}

describe('a load of requests', () => {
  it('asks for all of them, so many at once, each with a prompt of its own', async () => {
    const { client, asked, now, most } = madeUp(0);
    const { signal } = new AbortController();
    const done: number[] = [];
    const report = await runRequestLoad(client, load, signal, (count) => done.push(count), now);
    expect(new Set(asked.map(({ input }) => JSON.stringify(input))).size).toBe(5);
    const options = { maxTokens: 3, ignoreEndOfText: true, resumeForMs: 0, priority: -3 };
    expect(asked[0]?.options).toMatchObject(options);
    expect(most()).toBe(2);
    expect(done).toEqual([1, 2, 3, 4, 5]);
    expect(report).toMatchObject({ requests: 5, failed: {}, promptTokens: 20, outputTokens: 15 });
    expect(report.timePerOutputTokenSeconds.p50).toBeGreaterThan(0);
  });

  it('goes on after a failure, counts it by its code and leaves its time out', async () => {
    const { client, now } = madeUp(3);
    const { signal } = new AbortController();
    const report = await runRequestLoad(client, load, signal, () => undefined, now);
    expect(report).toMatchObject({ requests: 5, failed: { overloaded: 1 }, outputTokens: 12 });
  });

  it('is no load when no request came through: the failure says why', async () => {
    const { client, now } = madeUp(1);
    const { signal } = new AbortController();
    const one = { ...load, requests: 1 };
    const running = runRequestLoad(client, one, signal, () => undefined, now);
    await expect(running).rejects.toMatchObject({ code: 'overloaded' });
  });

  it('ends with the reason when it is stopped', async () => {
    const { client, now } = madeUp(1);
    const controller = new AbortController();
    controller.abort(new HelsError('cancelled', 'stopped by SIGINT'));
    const running = runRequestLoad(client, load, controller.signal, () => undefined, now);
    await expect(running).rejects.toThrow('stopped by SIGINT');
  });

  it('repeats its prompts for the same seed only', () => {
    expect(promptOf(4, 7)).toEqual(promptOf(4, 7));
    expect(promptOf(4, 8)).not.toEqual(promptOf(4, 7));
    expect(promptOf(4, 7)).toHaveLength(4);
  });
});

it('of answers of one token there is no time to the next', () => {
  const answer = { promptTokens: 1, outputTokens: 1, firstTokenSeconds: 0.5, perTokenSeconds: 0 };
  const many = { ...answer, outputTokens: 3, perTokenSeconds: 0.25 };
  const report = loadReportOf([answer, many], [], 2);
  expect(report.timePerOutputTokenSeconds).toEqual({ p50: 0.25, p95: 0.25, p99: 0.25 });
  expect(report.timeToFirstTokenSeconds.p50).toBe(0.5);
  expect(report.outputTokensPerSecond).toBe(2);
  expect(loadReportOf([], [], 0).outputTokensPerSecond).toBe(0);
});
