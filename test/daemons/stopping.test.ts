/** Losing daemons under load: every stream ends, with its answer or with an explicit error, and what is left serves on. */
import OpenAI, { APIError } from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { LocalProcess } from '../../client/helsctl/local-process.ts';
import { HelsError } from '../../client/sdk/index.ts';
import { bundledModelId, collect, startTestCluster, type TestCluster } from '../support/daemons.ts';
import { eventually } from '../support/deadline.ts';

const streamsPerApi = 16;
const messages = [{ role: 'user' as const, content: 'What is Hels?' }];

let test: TestCluster;
/** Worker 1 since it was started again. */
let again: LocalProcess | null = null;

/** How a stream ended: `finished`, or the code of its error. */
type Ending = string;

async function grpcEnding(onToken: () => void): Promise<Ending> {
  const options = { maxTokens: 400, ignoreEndOfText: true };
  try {
    for await (const event of test.cluster.client.generate({ messages }, options)) {
      if (event.type === 'delta') onToken();
      if (event.type === 'finished') return 'finished';
    }
  } catch (error) {
    return error instanceof HelsError ? error.code : `not an error of ours: ${error}`;
  }
  return 'silence';
}

async function httpEnding(onToken: () => void): Promise<Ending> {
  const client = new OpenAI({
    baseURL: `${test.cluster.httpUrl}/v1`,
    apiKey: 'none',
    maxRetries: 0,
  });
  const request = {
    model: bundledModelId,
    messages,
    max_tokens: 400,
    stream: true as const,
    ignore_eos: true,
  };
  try {
    for await (const chunk of await client.chat.completions.create(request)) {
      onToken();
      if (chunk.choices[0]?.finish_reason) return 'finished';
    }
  } catch (error) {
    return error instanceof APIError ? String(error.code) : `not an error of ours: ${error}`;
  }
  return 'silence';
}

/** Streams over both APIs; resolves once every one has had a token. */
async function load(): Promise<Promise<Ending>[]> {
  const started = new Set<number>();
  const streams = Array.from({ length: 2 * streamsPerApi }, (_, index) =>
    (index % 2 === 0 ? grpcEnding : httpEnding)(() => started.add(index)),
  );
  await eventually(20_000, 'every stream has a token', () => started.size === streams.length);
  return streams;
}

beforeAll(async () => {
  test = await startTestCluster(['cpu?threads=1', 'cpu?threads=1', 'cpu?threads=1']);
  await test.deploy({ policy: 'equal' });
});

afterAll(async () => {
  await test?.stop();
});

function signal(name: 'SIGTERM' | 'SIGKILL', processId: number | undefined): void {
  if (processId === undefined) throw new Error('the daemon has no process id');
  process.kill(processId, name);
}

async function endings(streams: Promise<Ending>[]): Promise<Set<Ending>> {
  let all: Ending[] | null = null;
  void Promise.all(streams).then((lists) => {
    all = lists;
  });
  await eventually(20_000, 'every stream has ended', () => all !== null);
  return new Set(all);
}

// One cluster loses its daemons one after another.
describe('under load', () => {
  it('a worker is killed: every stream says so, the others serve on, and it may come back', async () => {
    const streams = await load();
    signal('SIGKILL', test.cluster.workers[1]?.processId);
    expect([...(await endings(streams))].sort()).toEqual(['worker-lost', 'worker_lost']);
    await served(['worker-0', 'worker-2']);
    again = await test.restartWorker(1);
    await eventually(10_000, 'the worker is back', async () => {
      const { workers } = await test.cluster.client.status();
      return workers.filter(({ state }) => state === 'alive').length === 3;
    });
    expect((await ask()).finished?.type).toBe('finished');
  }, 90_000);

  it('a split by hand that loses a worker waits for that worker, and says so', async () => {
    const half = (workerId: string) => ({ workerId, headGroups: 4, ffnWeight: 1 });
    await test.deploy({ ranks: [half('worker-0'), half('worker-1')] });
    signal('SIGKILL', again?.processId);
    await eventually(20_000, 'it waits', async () => {
      const { detail } = await test.cluster.client.status();
      return detail.includes("worker 'worker-1' is not registered");
    });
    again = await test.restartWorker(1);
    await served(['worker-0', 'worker-1']);
    await test.deploy({ policy: 'equal' });
  }, 90_000);

  it('a worker is told to stop: every stream ends, it exits with 0, and the others serve on', async () => {
    const streams = await load();
    const [, , worker] = test.cluster.workers;
    signal('SIGTERM', worker?.processId);
    for (const ending of await endings(streams))
      expect(['finished', 'draining', 'worker-lost', 'worker_lost']).toContain(ending);
    expect(await worker?.exited).toBe(0);
    // The one that came back takes part.
    await served(['worker-0', 'worker-1']);
  }, 90_000);

  it('the controller is told to stop: every stream finishes or fails, and it exits with 0', async () => {
    const streams = await load();
    const begin = performance.now();
    signal('SIGTERM', test.cluster.controller.processId);
    for (const ending of await endings(streams)) expect(['finished', 'draining']).toContain(ending);
    expect(await test.cluster.controller.exited).toBe(0);
    // Its drain deadline, and what the last words may take.
    expect(performance.now() - begin).toBeLessThan(15_000);
  }, 60_000);
});

const ask = () => collect(test.cluster.client.generate({ messages }, { maxTokens: 20 }));

/** A newer epoch serves over these workers and answers. */
async function served(workerIds: string[]): Promise<void> {
  const { client } = test.cluster;
  const planned = async () => (await client.plan()).plan?.ranks.map(({ workerId }) => workerId);
  await eventually(60_000, `${workerIds.join(' and ')} serve`, async () => {
    if ((await client.status()).state !== 'ready') return false;
    return (await planned())?.join() === workerIds.join();
  });
  expect((await ask()).finished?.type).toBe('finished');
}
