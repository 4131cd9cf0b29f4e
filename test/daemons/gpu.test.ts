/** Workers on a GPU: where there is none, these tests are skipped. A GPU is shared here in parts, and by processes that take turns on it. */
import { afterEach, describe, expect, it } from 'vitest';
import { cudaDevices } from '../../worker/binding/native.ts';
import { type Answer, collect, startTestCluster, type TestCluster } from '../support/daemons.ts';
import { eventually } from '../support/deadline.ts';

const { devices } = cudaDevices();
const multiprocessors = devices[0]?.multiprocessors ?? 0;
const part = (share: number) => `cuda:0?sm=${Math.floor(multiprocessors * share)}&memory=1GiB`;
const whole = 'cuda:0?memory=1GiB';

let test: TestCluster | null = null;

async function start(...workers: string[]): Promise<TestCluster> {
  test = await startTestCluster(workers);
  return test;
}

afterEach(async () => {
  await test?.stop();
  test = null;
});

const messages = [{ role: 'user' as const, content: 'What is Hels?' }];

/** Short and long prompts at once, and one answer by chance with a seed. */
async function answers({ cluster }: TestCluster): Promise<Answer[]> {
  const prompts = [3, 17, 64, 150].map((length, seed) =>
    Array.from({ length }, (_, index) => 300 + ((index * 79 + seed * 31) % 700)),
  );
  const options = { maxTokens: 24, ignoreEndOfText: true, logprobs: 2 };
  const chance = { ...options, temperature: 0.8, seed: 7 };
  return await Promise.all([
    ...prompts.map((ids) => collect(cluster.client.generate({ promptTokenIds: ids }, options))),
    collect(cluster.client.generate({ messages }, chance)),
  ]);
}

/** Tokens and log probabilities; times differ. */
const chosen = (all: readonly Answer[]) =>
  all.map(({ tokenIds, logprobs }) => ({ tokenIds, logprobs }));

async function answersOf(workers: string[]): Promise<Answer[]> {
  const cluster = await start(...workers);
  const report = await cluster.deploy(workers.length > 1 ? { policy: 'equal' } : {});
  expect(report.ranks.length).toBe(workers.length);
  const all = await answers(cluster);
  await cluster.stop();
  test = null;
  return all;
}

describe.skipIf(devices.length === 0)('workers on a GPU', () => {
  it('answer alike, to the bit, as one rank and as several on parts of it', async () => {
    const alone = chosen(await answersOf([whole]));
    for (const { tokenIds, logprobs } of alone) {
      expect(tokenIds).toHaveLength(24);
      for (const logprob of logprobs) expect(logprob).toBeLessThanOrEqual(0);
    }
    expect(chosen(await answersOf([part(3 / 4), part(1 / 4)]))).toEqual(alone);
    expect(chosen(await answersOf([part(1 / 2), part(1 / 4), part(1 / 4)]))).toEqual(alone);
  }, 180_000);

  it('serve in one group with a worker on the CPU', async () => {
    const mixed = await answersOf([whole, 'cpu?threads=1']);
    expect(mixed.map(({ finished }) => finished?.type)).toEqual(mixed.map(() => 'finished'));
  }, 120_000);

  it('are profiled, and predict a step from what was measured', async () => {
    const cluster = await start(whole);
    const report = await cluster.deploy();
    expect(report.predictedDecodeSeconds).toBeGreaterThan(0);
    expect(report.ranks[0]?.device?.kind).toBe('cuda');
    for await (const event of cluster.cluster.client.profile({ refresh: true })) {
      if (event.type !== 'ready') continue;
      const phases = event.report.workers[0]?.phases.map(({ phase }) => phase);
      expect(phases).toEqual(['decode', 'prefill', 'mixed']);
    }
  }, 120_000);

  it('are refused with a number when the model has no room', async () => {
    const cluster = await start('cuda:0?memory=4MiB');
    await expect(cluster.deploy()).rejects.toThrow(/[KM]iB/);
    expect((await cluster.cluster.client.status()).workers[0]?.state).toBe('alive');
  }, 60_000);

  it('do not start on a GPU that is not there', async () => {
    await expect(start('cuda:77')).rejects.toThrow(/cuda:77/);
  }, 60_000);

  it('come back after a kill with the answers from before', async () => {
    const cluster = await start(whole);
    await cluster.deploy();
    const before = chosen(await answers(cluster));
    const stream = collect(
      cluster.cluster.client.generate({ messages }, { maxTokens: 900, ignoreEndOfText: true }),
    );
    const ending = stream.then(
      () => 'finished',
      (error: unknown) => String(error),
    );
    await eventually(20_000, 'the request runs', async () => {
      return (await cluster.cluster.client.status()).requestsRunning > 0;
    });
    process.kill(cluster.cluster.workers[0]?.processId ?? 0, 'SIGKILL');
    expect(await ending).toMatch(/worker/);
    await cluster.restartWorker(0);
    await eventually(60_000, 'it serves again', async () => {
      return (await cluster.cluster.client.status()).state === 'ready';
    });
    expect(chosen(await answers(cluster))).toEqual(before);
  }, 180_000);
});
