/** Losing daemons under load: streams go on over the workers that are left with the same tokens, or end with an explicit error. */
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
/** Text of each stream that nothing disturbs. */
let undisturbed: string[] = [];

interface Ending {
  /** `finished`, or the code of the error that ended it. */
  how: string;
  text: string;
}

/** Sampled, each with its seed. */
const optionsOf = (index: number) => ({ temperature: 0.8, seed: 100 + index });

async function grpcStream(index: number, onToken: () => void): Promise<Ending> {
  // What the controller says is what is asked for.
  const options = {
    maxTokens: 400,
    ignoreEndOfText: true,
    resumeForMs: 0,
    ...optionsOf(index),
  };
  let text = '';
  try {
    for await (const event of test.cluster.client.generate({ messages }, options)) {
      if (event.type === 'finished') return { how: 'finished', text };
      if (event.type !== 'delta') continue;
      text += event.text;
      onToken();
    }
  } catch (error) {
    return { how: error instanceof HelsError ? error.code : `not ours: ${error}`, text };
  }
  return { how: 'silence', text };
}

async function httpStream(index: number, onToken: () => void): Promise<Ending> {
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
    ...optionsOf(index),
  };
  let text = '';
  try {
    for await (const chunk of await client.chat.completions.create(request)) {
      onToken();
      text += chunk.choices[0]?.delta.content ?? '';
      if (chunk.choices[0]?.finish_reason) return { how: 'finished', text };
    }
  } catch (error) {
    return { how: error instanceof APIError ? String(error.code) : `not ours: ${error}`, text };
  }
  return { how: 'silence', text };
}

/** Streams over both APIs; resolves once every one has had a token. */
async function load(): Promise<Promise<Ending>[]> {
  const started = new Set<number>();
  const streams = Array.from({ length: 2 * streamsPerApi }, (_, index) =>
    (index % 2 === 0 ? grpcStream : httpStream)(index, () => started.add(index)),
  );
  await eventually(20_000, 'every stream has a token', () => started.size === streams.length);
  return streams;
}

async function endings(streams: Promise<Ending>[], timeoutMs = 20_000): Promise<Ending[]> {
  let all: Ending[] = [];
  void Promise.all(streams).then((list) => {
    all = list;
  });
  await eventually(timeoutMs, 'every stream has ended', () => all.length > 0);
  return all;
}

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${test.cluster.httpUrl}/metrics`)).text();
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1]);
}

/** Requests that went on after the end of their epoch, in this life of the controller. */
const resumedSoFar = () => metric('hels_requests_resumed_total');
const waitingNow = () => metric('hels_requests_waiting');

/** Something happens to a worker under load: all streams come to their end, with no token lost, repeated or changed. */
async function expectUndisturbed(happens: () => void): Promise<void> {
  const before = await resumedSoFar();
  const { epoch } = await test.cluster.client.status();
  const streams = await load();
  happens();
  await eventually(15_000, 'its epoch has ended', async () => {
    return (await test.cluster.client.status()).epoch > epoch;
  });
  // Whoever comes meanwhile is not refused.
  expect((await ask()).finished?.type).toBe('finished');
  const ended = await endings(streams, 60_000);
  expect(ended).toEqual(undisturbed.map((text) => ({ how: 'finished', text })));
  expect(await resumedSoFar()).toBeGreaterThan(before + streamsPerApi);
  expect((await fetch(`${test.cluster.httpUrl}/ready`)).status).toBe(200);
}

beforeAll(async () => {
  test = await startTestCluster(['cpu?threads=1', 'cpu?threads=1', 'cpu?threads=1']);
  await test.deploy({ policy: 'equal' });
  undisturbed = (await endings(await load())).map(({ text }) => text);
});

afterAll(async () => {
  await test?.stop();
});

function signal(
  name: 'SIGTERM' | 'SIGKILL' | 'SIGSTOP' | 'SIGCONT',
  processId: number | undefined,
): void {
  if (processId === undefined) throw new Error('the daemon has no process id');
  process.kill(processId, name);
}

// One cluster loses its daemons one after another.
describe('under load', () => {
  it('a worker is killed: every stream goes on with the same tokens over the others, and it may come back', async () => {
    await expectUndisturbed(() => signal('SIGKILL', test.cluster.workers[1]?.processId));
    await served(['worker-0', 'worker-2']);
    again = await test.restartWorker(1);
    await eventually(10_000, 'the worker is back', async () => {
      const { workers } = await test.cluster.client.status();
      return workers.filter(({ state }) => state === 'alive').length === 3;
    });
    expect((await ask()).finished?.type).toBe('finished');
  }, 90_000);

  it('a worker hangs: every stream goes on with the same tokens over the others, and it may go on', async () => {
    const hung = test.cluster.workers[0]?.processId;
    await test.deploy({ policy: 'equal' });
    await expectUndisturbed(() => signal('SIGSTOP', hung));
    signal('SIGCONT', hung);
    await eventually(10_000, 'the worker is back', async () => {
      const { workers } = await test.cluster.client.status();
      return workers.filter(({ state }) => state === 'alive').length === 3;
    });
  }, 90_000);

  it('a deployment of the same model takes the streams over, and does not count on a worker that has just died', async () => {
    let deployed: ReturnType<typeof test.deploy> | null = null;
    await expectUndisturbed(() => {
      signal('SIGKILL', again?.processId);
      deployed = test.deploy({ policy: 'compute', workersMin: 2 });
    });
    const { plan = null } = (await (deployed as ReturnType<typeof test.deploy> | null)) ?? {};
    expect(plan?.ranks.map(({ workerId }) => workerId)).toEqual(['worker-0', 'worker-2']);
    again = await test.restartWorker(1);
  }, 60_000);

  it('a split by hand that loses a worker waits for that worker, and says so', async () => {
    const half = (workerId: string) => ({ workerId, headGroups: 4, ffnWeight: 1 });
    await test.deploy({ ranks: [half('worker-0'), half('worker-1')] });
    signal('SIGKILL', again?.processId);
    await eventually(20_000, 'it waits', async () => {
      const { detail } = await test.cluster.client.status();
      return detail.includes("worker 'worker-1' is not registered");
    });
    let answered = false;
    const newcomer = ask().finally(() => {
      answered = true;
    });
    const other = collect(test.cluster.client.generate({ messages }, { model: 'another' }));
    await expect(other).rejects.toMatchObject({ code: 'not-ready' });
    await eventually(5_000, 'the newcomer waits', async () => (await waitingNow()) === 1);
    expect(answered).toBe(false);
    again = await test.restartWorker(1);
    expect((await newcomer).finished?.type).toBe('finished');
    await served(['worker-0', 'worker-1']);
    await test.deploy({ policy: 'equal' });
  }, 90_000);

  it('a worker is told to stop: it exits with 0, and every stream goes on with the same tokens over the others', async () => {
    const [, , worker] = test.cluster.workers;
    await expectUndisturbed(() => signal('SIGTERM', worker?.processId));
    expect(await worker?.exited).toBe(0);
    // The one that came back takes part.
    await served(['worker-0', 'worker-1']);
  }, 90_000);

  it('the controller is told to stop: every stream finishes or fails, and it exits with 0', async () => {
    const streams = await load();
    const begin = performance.now();
    signal('SIGTERM', test.cluster.controller.processId);
    await newcomersAreTold();
    for (const { how } of await endings(streams)) expect(['finished', 'draining']).toContain(how);
    expect(await test.cluster.controller.exited).toBe(0);
    // Its drain deadline, and what the last words may take.
    expect(performance.now() - begin).toBeLessThan(15_000);
  }, 60_000);
});

/** The controller answers until its streams have ended: that it stops. */
async function newcomersAreTold(): Promise<void> {
  const { httpUrl } = test.cluster;
  await eventually(2_000, 'it is not ready', async () => {
    const ready = await fetch(`${httpUrl}/ready`);
    if (ready.status !== 503) return false;
    expect(await ready.json()).toEqual({ status: 'not ready', reason: 'draining' });
    return true;
  });
  const refused = await fetch(`${httpUrl}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: bundledModelId, prompt: 'Hels' }),
  });
  expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '1']);
  expect(await refused.json()).toMatchObject({ error: { code: 'draining' } });
}

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
