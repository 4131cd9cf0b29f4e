/** The engine of a group over ranks without workers: whether a token went through them, and who sends one when nobody is left. */
import { Registry } from 'prom-client';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ClusterEvents } from '../../../controller/deployment/cluster-events.ts';
import type { LoadedGroup } from '../../../controller/deployment/deployment-run.ts';
import { PredictionTracker } from '../../../controller/deployment/prediction-tracker.ts';
import { SwitchingEngine } from '../../../controller/engine/generation-engine.ts';
import { openGroupWith } from '../../../controller/engine/open-group.ts';
import { ServingMetrics } from '../../../controller/metrics/serving-metrics.ts';
import { nothingKept } from '../../../controller/scheduler/hand-over.ts';
import { Scheduler } from '../../../controller/scheduler/scheduler.ts';
import { createLogger } from '../../../proto/base/log.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { FakeRank, stubOf } from '../../support/fake-ranks.ts';
import { requestOf } from '../../support/generation-requests.ts';
import { answerAll, answerStep, read, turn } from '../../support/step-loop-setting.ts';
import { loaded, request } from '../deployment/replan-setting.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function setUp() {
  let nowMs = 100;
  const clock = { nowMs: () => nowMs, unixMs: () => 0 };
  const engine = new SwitchingEngine(clock, () => undefined);
  const metrics = new ServingMetrics(new Registry(), () => ({}) as never);
  const log = createLogger('test', 'error');
  const logged = vi.spyOn(log, 'error').mockReturnValue(log);
  const events = new ClusterEvents(clock, log);
  const tracker = new PredictionTracker(clock, events, { error: () => undefined });
  const open = openGroupWith({ engine, metrics, tracker, events, clock, log }, () => request);
  const overRanks = (
    ranks: readonly FakeRank[],
    fingerprints: string[],
    files: { weightsDigest: string; modelDigest: string } | null = null,
  ) =>
    ({
      ...loaded,
      weightsDigest: files?.weightsDigest ?? 'w',
      shardPlan: { ...loaded.shardPlan, ...(files && { modelDigest: files.modelDigest }) },
      workers: loaded.workers.map((worker, rank) => ({
        ...worker,
        client: { stub: stubOf(ranks[rank] as FakeRank) },
      })),
      prepared: [],
      fingerprints,
      numericsClass: 'mixed',
    }) as unknown as LoadedGroup;
  const made = () => loaded.workers.map(({ id }) => new FakeRank(id, 16));
  const ranks = made();
  const group = open(overRanks(ranks, ['x', 'y']), 1, () => undefined);
  const ask = (id: string) => engine.generate(requestOf(id, 20, 4), new AbortController().signal);
  const openOver = (...over: Parameters<typeof overRanks>) =>
    open(overRanks(...over), 1, () => undefined);
  const sleep = (ms: number) => {
    nowMs += ms;
  };
  const queued = async () =>
    (await metrics.requestQueue.get()).values.find(({ metricName }) =>
      metricName?.endsWith('_count'),
    )?.value ?? 0;
  const over = { made, overRanks, openOver };
  return { engine, events, metrics, logged, ranks, group, ask, sleep, ...over, queued };
}

describe('a group that serves without a warm-up', () => {
  it('is silent until a step of a request went through all of its ranks', () => {
    const { group, ranks, ask } = setUp();
    group.attach();
    ask('a');
    expect(group.silentSinceMs).toBe(Number.NEGATIVE_INFINITY);
    // The request does it.
    group.proveIdle();
    expect(ranks[0]?.requests.at(-1)?.sequences).toHaveLength(1);
    ranks[0]?.answer();
    expect(group.silentSinceMs).toBe(Number.NEGATIVE_INFINITY);
    ranks[1]?.answer();
    expect(group.silentSinceMs).toBeNull();
  });

  it('is sent a known answer, once, when everybody has left before', async () => {
    const { group, ranks } = setUp();
    group.attach();
    expect(ranks[0]?.requests).toEqual([]);
    group.proveIdle();
    group.proveIdle();
    await turn();
    // Its prompt, and its first token ahead.
    expect(ranks[0]?.requests.map(({ sequences }) => sequences?.length)).toEqual([1, 1]);
    expect(group.silentSinceMs).not.toBeNull();
    answerAll({ ranks });
    await turn();
    expect(group.silentSinceMs).toBeNull();
    expect(group.isProved).toBe(true);
    const all = ranks[0]?.requests.length;
    group.proveIdle();
    await turn();
    expect(ranks[0]?.requests).toHaveLength(all ?? 0);
  });

  it('is no request that waited, neither then nor when a re-plan finds nobody', async () => {
    const { group, ranks, made, overRanks, queued, ask } = setUp();
    group.attach();
    group.proveIdle();
    await turn();
    answerAll({ ranks });
    await turn();
    const paused = group.pause();
    await paused;
    const next = made();
    const rebased = group.rebase(overRanks(next, ['x', 'y']), nothingKept);
    answerAll({ ranks: next });
    await rebased;
    expect(await queued()).toBe(0);
    ask('a');
    expect(await queued()).toBe(1);
  });

  it('that refuses the known answer says so, once, and stays silent', async () => {
    const { group, ranks, events } = setUp();
    group.attach();
    // What the next plan holds is too little.
    group.reserve({ kvBlocks: 1, kvBlockTokens: 1 } as never);
    for (let tick = 0; tick < 3; tick += 1) {
      group.proveIdle();
      await turn();
    }
    expect(ranks[0]?.requests).toEqual([]);
    expect(group.silentSinceMs).toBe(Number.NEGATIVE_INFINITY);
    const told = events.list().filter(({ kind }) => kind === 'unproved');
    expect(told.map(({ message }) => message)).toEqual([
      expect.stringMatching(/^no known answer went through the ranks of epoch \d+: .*token/),
    ]);
  });

  it('is silent from a pause until the ranks after it have answered', async () => {
    const { group, ranks, ask, sleep, made, overRanks } = setUp();
    group.attach();
    ask('a');
    answerAll({ ranks });
    ask('b');
    const paused = group.pause();
    answerAll({ ranks });
    await paused;
    expect(group.silentSinceMs).toBe(100);
    sleep(50);
    await group.pause();
    expect(group.silentSinceMs).toBe(100);
    const next = made();
    const rebased = group.rebase(overRanks(next, ['x', 'y']), nothingKept);
    expect(group.silentSinceMs).toBe(100);
    answerAll({ ranks: next });
    await rebased;
    expect(group.silentSinceMs).toBeNull();
  });
});

it.each([
  ['goes on over other files around the same weights', 'w', 'finished'],
  ['ends where the weights are others', 'other weights', 'failed'],
])('a request %s', async (_, weightsDigest, last) => {
  const { group, ranks, ask, made, openOver } = setUp();
  group.attach();
  const events = read(ask('a'));
  answerStep({ ranks });
  await group.close(new HelsError('worker-lost', 'gone'));
  const next = made();
  openOver(next, ['x', 'y'], { weightsDigest, modelDigest: 'template edited' }).attach();
  answerAll({ ranks: next });
  await turn();
  expect(events.at(-1)?.type).toBe(last);
});

it('workers with other kernels are told once, and again when a re-plan makes them others', async () => {
  const { group, ranks, events, ask, made, overRanks } = setUp();
  group.attach();
  const told = () => events.list().map(({ kind, workerId }) => `${kind} ${workerId}`);
  expect(told()).toEqual(['mixed-numerics b']);
  ask('a');
  for (const fingerprints of [
    ['x', 'y'],
    ['x', 'x'],
    ['x', 'y'],
  ]) {
    const paused = group.pause();
    answerAll({ ranks });
    await paused;
    const next = made();
    const rebased = group.rebase(overRanks(next, fingerprints), nothingKept);
    ranks.splice(0, ranks.length, ...next);
    answerAll({ ranks });
    await rebased;
    ask(fingerprints.join());
  }
  expect(told()).toEqual(['mixed-numerics b', 'mixed-numerics b']);
});

it('a fault of ours ends the epoch, and the log says where it was', async () => {
  const { group, ranks, ask, metrics, logged } = setUp();
  group.attach();
  const events = read(ask('a'));
  vi.spyOn(metrics.step, 'observe').mockImplementation(() => {
    throw new TypeError('no such thing');
  });
  answerStep({ ranks });
  await turn();
  const error = 'a fault of the controller: no such thing';
  expect(events.at(-1)).toMatchObject({ type: 'failed', error: { code: 'internal' } });
  expect(logged.mock.calls).toEqual([
    [
      'epoch failed',
      expect.objectContaining({ error, stack: expect.stringContaining('open-group.test.ts') }),
    ],
  ]);
});

it('the loss of a rank is no error in the log: an event tells of it', async () => {
  const { group, ranks, ask, logged } = setUp();
  group.attach();
  ask('a');
  ranks[0]?.break(new HelsError('worker-lost', 'gone'));
  await turn();
  expect(logged).not.toHaveBeenCalled();
});

it('a fault of ours on the way to other ranks attaches nothing: who was not computed waits for the next epoch', async () => {
  const { engine, group, ranks, ask, made, overRanks } = setUp();
  group.attach();
  ask('a');
  answerAll({ ranks });
  await group.pause();
  const late = read(ask('late'));
  vi.spyOn(Scheduler.prototype, 'schedule').mockImplementationOnce(() => {
    throw new TypeError('no such thing');
  });
  const rebased = group.rebase(overRanks(made(), ['x', 'y']), nothingKept);
  await expect(rebased).rejects.toMatchObject({ code: 'internal' });
  expect([engine.serving, engine.held]).toEqual([null, 1]);
  expect(late).toEqual([]);
});
