/** Plans that change while requests run: three real workers, streams in the middle, and the same text as undisturbed. */
import { cpSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type {
  DrainEvent,
  GenerateOptions,
  HelsClient,
  PlanReport,
  ReplanEvent,
  ReplanOptions,
} from '../../client/sdk/index.ts';
import {
  bundledModel,
  collect,
  idle,
  startTestCluster,
  type TestCluster,
} from '../support/daemons.ts';
import { eventually } from '../support/deadline.ts';
import { helsctl } from '../support/helsctl.ts';

const splitOf = (...headGroups: number[]) =>
  headGroups.map((groups, index) => ({
    workerId: `worker-${index}`,
    headGroups: groups,
    ffnWeight: groups,
  }));
const first = splitOf(4, 2, 2);

/** Greedy and seeded, each long enough to be in the middle when the plan changes. */
const requests: { prompt: string; options: GenerateOptions }[] = [0, 1, 2, 3].map((index) => ({
  prompt: `Sentence ${index}: a head group is`,
  options: {
    maxTokens: 220,
    ignoreEndOfText: true,
    ...(index % 2 === 0 ? {} : { temperature: 0.9, seed: 40 + index }),
  },
}));

let test: TestCluster;
let model = '';
let undisturbed: number[][] = [];

beforeAll(async () => {
  model = join(mkdtempSync(join(tmpdir(), 'hels-model-')), 'hels-tiny');
  cpSync(bundledModel, model, { recursive: true });
  test = await startTestCluster(first.map(() => 'cpu?threads=1&speed=0.25'));
});

afterAll(async () => {
  await test?.stop();
  rmSync(join(model, '..'), { recursive: true, force: true });
});

const ask = (client: HelsClient, { prompt, options }: (typeof requests)[number]) =>
  collect(client.generate({ prompt }, options));

async function metricOf(pattern: RegExp): Promise<number> {
  const text = await (await fetch(`${test.cluster.httpUrl}/metrics`)).text();
  return text
    .split('\n')
    .filter((line) => pattern.test(line))
    .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

/** Runs all requests and does something in the middle of them; resolves to their tokens. */
async function during(act: () => Promise<void>): Promise<number[][]> {
  const { client } = test.cluster;
  const generated = () => metricOf(/^hels_tokens_generated_total/);
  const before = await generated();
  const running = Promise.all(requests.map((request) => ask(client, request)));
  await eventually(
    20_000,
    'the streams are under way',
    async () => (await generated()) > before + 60,
  );
  await act();
  const { requestsRunning } = await client.status();
  // Otherwise what happened did not happen in the middle.
  expect(requestsRunning).toBe(requests.length);
  const answers = await running;
  await idle(client);
  return answers.map(({ tokenIds }) => tokenIds);
}

async function replan(options: ReplanOptions): Promise<ReplanEvent[]> {
  const events: ReplanEvent[] = [];
  for await (const event of test.cluster.client.replan(options)) events.push(event);
  return events;
}

describe('a re-plan while requests run', () => {
  beforeEach(async () => {
    await test.deploy({ modelPath: model, ranks: first });
    if (undisturbed.length > 0) return;
    const { client } = test.cluster;
    undisturbed = [];
    for (const request of requests) undisturbed.push((await ask(client, request)).tokenIds);
  });

  it('goes on with the same tokens over other splits, again and again', async () => {
    const before = await test.cluster.client.status();
    const done: Extract<ReplanEvent, { type: 'done' }>[] = [];
    const tokens = await during(async () => {
      for (const ranks of [splitOf(2, 3, 3), splitOf(5, 3, 0).slice(0, 2), splitOf(3, 3, 2)]) {
        const events = await replan({ ranks });
        expect(events[0]).toMatchObject({ type: 'proposal', equal: false });
        const last = events.at(-1);
        if (last?.type === 'done') done.push(last);
      }
    });
    expect(tokens).toEqual(undisturbed);
    expect(done.map(({ report }) => report.plan?.ranks.length)).toEqual([3, 2, 3]);
    const pauses = done.map(({ replan: one }) => one);
    for (const pause of pauses) {
      expect(pause).toMatchObject({ outcome: 'applied', trigger: 'operator', sequences: 4 });
      expect(pause?.pauseSeconds).toBeGreaterThan(0);
      expect(pause?.pauseSeconds).toBeLessThan(10);
      expect(pause?.predicted?.seconds).toBeGreaterThan(0);
    }
    // Where all that hold KV stay, it moves; where one leaves, its heads are computed again.
    expect(pauses.map((pause) => pause?.kv)).toEqual(['migrated', 'replayed', 'migrated']);
    const status = await test.cluster.client.status();
    expect(status.epoch).toBe(before.epoch + 3);
    expect(status.lastReplan).toEqual(pauses.at(-1));
    expect(status.replans).toBe(before.replans + 3);
    expect(status.events.filter(({ kind }) => kind === 'replan').length).toBeGreaterThanOrEqual(3);
    expect(await metricOf(/^hels_replan_total.*applied/)).toBeGreaterThanOrEqual(3);
    expect(await metricOf(/^hels_replan_pause_seconds_count/)).toBeGreaterThanOrEqual(3);
    expect(await metricOf(/^hels_replan_pause_seconds_sum/)).toBeGreaterThan(0);
  }, 120_000);

  it('serves requests that arrive in the pause, and an idle group changes its plan too', async () => {
    const { client } = test.cluster;
    let late: Promise<number[]> | null = null;
    for await (const event of client.replan({ ranks: splitOf(6, 1, 1) })) {
      if (event.type === 'progress')
        late ??= ask(client, requests[0] as never).then((a) => a.tokenIds);
    }
    expect(await late).toEqual(undisturbed[0]);
  }, 60_000);

  it('leaves the streams going when the new plan cannot be loaded', async () => {
    const weights = join(model, 'model.safetensors');
    const { epoch } = await test.cluster.client.status();
    renameSync(weights, `${weights}.away`);
    try {
      const tokens = await during(async () => {
        await expect(replan({ ranks: splitOf(2, 3, 3) })).rejects.toMatchObject({
          code: 'model-invalid',
        });
      });
      expect(tokens).toEqual(undisturbed);
      expect(await test.cluster.client.status()).toMatchObject({ state: 'ready', epoch });
    } finally {
      renameSync(`${weights}.away`, weights);
    }
  }, 60_000);

  it('does nothing for a split that is the current one, and refuses one that is none', async () => {
    const { epoch } = await test.cluster.client.status();
    const events = await replan({ ranks: first });
    expect(events.map(({ type }) => type)).toEqual(['proposal', 'done']);
    expect(events.at(-1)).toMatchObject({ type: 'done', replan: null });
    await expect(replan({ ranks: splitOf(1, 1, 1) })).rejects.toMatchObject({
      code: 'config-invalid',
    });
    expect((await test.cluster.client.status()).epoch).toBe(epoch);
  }, 60_000);

  it('is what helsctl plan --apply does', async () => {
    const address = ['--address', test.cluster.grpcAddress];
    const applied = await helsctl(
      'plan',
      '--apply',
      '--ranks',
      'worker-0=2/1,worker-1=6/1',
      '--json',
      ...address,
    );
    expect(applied).toMatchObject({ exitCode: 0 });
    const result = JSON.parse(applied.stdout);
    expect(result).toMatchObject({
      applied: true,
      proposal: { equal: false },
      replan: { outcome: 'applied' },
    });
    const wrong = await helsctl('plan', '--apply', '--ranks', 'worker-9=8/1', ...address);
    expect(wrong.exitCode).toBe(3);
    expect(wrong.stderr).toContain("worker 'worker-9' is not registered");
    const events = await helsctl('events', '--json', ...address);
    const told = JSON.parse(events.stdout) as { kind: string }[];
    expect(told.map(({ kind }) => kind)).toContain('replan');
  }, 60_000);

  it('is what helsctl drain does: the worker serves nothing, is left out of what comes, and is back when asked', async () => {
    const { client } = test.cluster;
    const address = ['--address', test.cluster.grpcAddress];
    const byHand = await helsctl('drain', 'worker-1', ...address);
    expect(byHand).toMatchObject({ exitCode: 3 });
    expect(byHand.stderr).toContain('split by hand');
    await test.deploy({ modelPath: model, policy: 'equal' });
    const tokens = await during(async () => {
      const events: DrainEvent[] = [];
      for await (const event of client.drain('worker-1')) events.push(event);
      expect(events[0]).toMatchObject({ type: 'proposal', equal: false });
      const replan = { outcome: 'applied', trigger: 'operator', sequences: 4 };
      expect(events.at(-1)).toMatchObject({ type: 'done', replan });
    });
    expect(tokens).toEqual(undisturbed);
    const workersOf = (report: PlanReport) => report.plan?.ranks.map(({ workerId }) => workerId);
    expect(workersOf(await client.plan())).toEqual(['worker-0', 'worker-2']);
    const again = await helsctl('drain', 'worker-1', '--json', ...address);
    expect(JSON.parse(again.stdout)).toMatchObject({ drained: true, replan: null, report: null });
    const others = await test.deploy({ modelPath: model, policy: 'equal', workersMin: 2 });
    expect(workersOf(others)).toEqual(['worker-0', 'worker-2']);
    const listed = await helsctl('get', 'workers', 'worker-1', '--json', ...address);
    expect(JSON.parse(listed.stdout)).toMatchObject({ state: 'alive', drained: true });
    const undone = await helsctl('drain', 'worker-1', '--undo', ...address);
    expect(undone.stdout).toContain('plans may use worker-1 again');
    const all = await test.deploy({ modelPath: model, policy: 'equal' });
    expect(workersOf(all)).toEqual(['worker-0', 'worker-1', 'worker-2']);
  }, 120_000);

  // The last ones: there is a worker less afterwards. One that is gone is found out at once, one that is silent after its lease.
  it.each(['SIGSTOP', 'SIGKILL'] as const)(
    'goes back to the former plan when a worker of the new one gets %s',
    async (signal) => {
      const { client, processIds } = test.cluster;
      await test.deploy({ modelPath: model, ranks: splitOf(5, 3) });
      const { epoch } = await client.status();
      const tokens = await during(async () => {
        process.kill(processIds.get('worker-2') ?? 0, signal);
        const failed = replan({ ranks: splitOf(3, 3, 2) });
        await expect(failed).rejects.toThrow(`the former plan serves on under epoch ${epoch + 2}`);
      });
      expect(tokens).toEqual(undisturbed);
      const status = await client.status();
      expect(status).toMatchObject({ state: 'ready', epoch: epoch + 2 });
      expect(status.lastReplan).toMatchObject({ outcome: 'undone', kv: 'replayed', sequences: 4 });
      expect(status.events.map(({ kind }) => kind)).toContain('replan-undone');
      if (signal === 'SIGSTOP') process.kill(processIds.get('worker-2') ?? 0, 'SIGCONT');
    },
    60_000,
  );
});

describe('a worker that was lost', () => {
  it('is used again by a plan once it is back', async () => {
    const { client } = test.cluster;
    await eventually(20_000, 'the worker is missed', async () => {
      return (await client.status()).workers.length === 2;
    });
    expect((await client.status()).events).toContainEqual(
      expect.objectContaining({ kind: 'worker-lost', workerId: 'worker-2' }),
    );
    const metrics = await (await fetch(`${test.cluster.httpUrl}/metrics`)).text();
    expect(metrics).toMatch(/^hels_workers_lost_total [1-9]/m);
    await test.deploy({ modelPath: model, policy: 'equal', workersMin: 2 });
    await test.restartWorker(2);
    await eventually(20_000, 'the worker is one that plans may use', async () => {
      const { events } = await client.status();
      return events.some(
        ({ kind, workerId, message }) =>
          kind === 'joined' && workerId === 'worker-2' && message.includes('may use it'),
      );
    });
    const tokens = await during(async () => {
      const done = (await replan({})).at(-1);
      expect(done).toMatchObject({ type: 'done', report: { plan: { ranks: [{}, {}, {}] } } });
    });
    expect(tokens).toEqual(undisturbed);
  }, 90_000);
});
