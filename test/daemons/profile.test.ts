/** Profiles as a user meets them: measured once, kept in the store over restarts, measured again when asked. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { LocalCluster } from '../../client/helsctl/local-cluster.ts';
import type { ProfileReport } from '../../client/sdk/index.ts';
import { bundledModel } from '../support/daemons.ts';

const devices = ['cpu?threads=1', 'cpu?threads=1&speed=0.4'];
const dataDirectory = mkdtempSync(join(tmpdir(), 'hels-profile-'));
let running: LocalCluster | null = null;

async function start(): Promise<LocalCluster> {
  await running?.stop();
  const loopback = '127.0.0.1:0';
  running = await LocalCluster.start({
    devices,
    dataDirectory,
    http: loopback,
    grpc: loopback,
    logLevel: 'info',
  });
  return running;
}

/** What the profiling phase of a deployment told. */
async function deploy({ client }: LocalCluster): Promise<string[]> {
  const told: string[] = [];
  for await (const event of client.deploy({
    modelPath: bundledModel,
    workersMin: devices.length,
  })) {
    if (event.type === 'progress' && event.phase === 'profiling') told.push(event.message);
  }
  return told;
}

async function profile({ client }: LocalCluster, refresh: boolean): Promise<ProfileReport> {
  for await (const event of client.profile({ modelPath: bundledModel, refresh })) {
    if (event.type === 'ready') return event.report;
  }
  throw new Error('profiling ended without a report');
}

afterAll(async () => {
  await running?.stop();
  rmSync(dataDirectory, { recursive: true, force: true });
});

it('measures kernels and collectives once, and never again after a restart', async () => {
  const cluster = await start();
  const first = await deploy(cluster);
  for (const worker of ['worker-0', 'worker-1']) {
    expect(first).toContain(`${worker}: timing its kernels`);
  }
  expect(first).toContain('2 workers: timing their collectives');

  const restarted = await start();
  await expect
    .poll(async () => (await restarted.client.status()).state, { timeout: 30_000 })
    .toBe('ready');
  const second = await deploy(restarted);
  expect(second.filter((message) => message.includes('timing'))).toEqual([]);

  const report = await profile(restarted, false);
  expect(report.workers.map(({ workerId, stored }) => [workerId, stored])).toEqual([
    ['worker-0', true],
    ['worker-1', true],
  ]);
  for (const worker of report.workers) {
    expect(worker.linkConstant + worker.linkPerToken).toBeGreaterThan(0);
    expect(worker.copyBytesPerSecond).toBeGreaterThan(1e7);
    const decode = worker.phases.find(({ phase }) => phase === 'decode');
    expect(decode?.lines.length).toBeGreaterThan(0);
    expect(decode?.conditionNumber).toBeGreaterThan(1);
    expect(decode?.heldOut.map(({ tokens }) => tokens)).toEqual(expect.arrayContaining([0, 1]));
  }
}, 120_000);

it('measures again with refresh, while the model is served', async () => {
  const cluster = running ?? (await start());
  const before = await profile(cluster, false);
  const after = await profile(cluster, true);
  for (const [index, worker] of after.workers.entries()) {
    expect(worker.stored).toBe(false);
    expect(worker.measuredUnixMs).toBeGreaterThan(before.workers[index]?.measuredUnixMs ?? 0);
  }
  expect((await cluster.client.status()).state).toBe('ready');
}, 120_000);

it('tells how far the steps are from their prediction, in status and metrics', async () => {
  const cluster = running ?? (await start());
  for await (const _ of cluster.client.generate(
    { prompt: 'What is Hels?' },
    { maxTokens: 20, ignoreEndOfText: true },
  )) {
    // The steps are what counts.
  }
  const { predictions } = await cluster.client.status();
  const ranks = (await cluster.client.plan()).plan?.ranks ?? [];
  expect(predictions.map(({ workerId }) => workerId)).toEqual(
    ranks.map(({ workerId }) => workerId),
  );
  for (const { ratio, steps } of predictions) {
    expect(steps).toBeGreaterThan(10);
    expect(ratio).toBeGreaterThan(0);
  }
  const metrics = await (await fetch(`${cluster.httpUrl}/metrics`)).text();
  for (const { workerId } of ranks) {
    expect(metrics).toMatch(
      new RegExp(`hels_step_prediction_error_ratio_count\\{worker="${workerId}"\\} [1-9]`),
    );
  }
}, 60_000);
