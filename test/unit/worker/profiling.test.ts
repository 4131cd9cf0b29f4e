import { expect, test } from 'vitest';
import type { MeasuredPoint } from '../../../proto/gen/hels/v1/MeasuredPoint.ts';
import type { ProfileRequest__Output } from '../../../proto/gen/hels/v1/ProfileRequest.ts';
import { NewestRun } from '../../../worker/daemon/newest-run.ts';
import { profiler } from '../../../worker/daemon/profiling.ts';
import { smallModel } from '../profiler/models.ts';

const point = {
  prefill: false,
  tokens: 1,
  contextTokens: 1,
  headGroups: 1,
  ffnColumns: 0,
  vocabRows: 0,
  chunkTokens: 0,
  chunkContextTokens: 0,
};

interface Given {
  points: number;
  roundsMax: number;
  budgetMs: number;
  /** Of the n-th measurement; each takes 10 ms of the made-up clock. */
  secondsOf(n: number): number;
  /** What the n-th measurement takes beyond these. */
  extraMs?(n: number): number;
  cancelledAfter?: number;
  refuse?: () => void;
}

async function measure({ points, roundsMax, budgetMs, secondsOf, ...given }: Given) {
  let nowMs = 0;
  let measurements = 0;
  let closed = 0;
  const events: MeasuredPoint[] = [];
  const run = profiler({
    shard: { refuseProfile: given.refuse ?? (() => {}) },
    measuring: new NewestRun(),
    describeDevice: () => ({
      threads: 1,
      speed: 1,
      memoryBytes: 1,
      memoryFreeBytes: 1,
      hostMemoryBytes: 0,
    }),
    engineDevice: { device: 'cpu', multiprocessors: 0 },
    openProfiler: () => ({
      measure: async () => {
        nowMs += 10 + (given.extraMs?.(measurements) ?? 0);
        measurements += 1;
        return secondsOf(measurements - 1);
      },
      close: async () => {
        closed += 1;
      },
    }),
    copyBandwidth: async () => 1e9,
    nowMs: () => nowMs,
  });
  const request = {
    fence: { term: 1, epoch: 1 },
    model: smallModel,
    points: Array.from({ length: points }, () => point),
    roundsMax,
    budgetMs,
  } as ProfileRequest__Output;
  const outcome = run(
    request,
    (event) => {
      if (event.point) events.push(event.point);
    },
    () => measurements >= (given.cancelledAfter ?? Number.POSITIVE_INFINITY),
  );
  await outcome.catch(() => undefined);
  return { outcome, events, closed, run, request };
}

test('a disturbance of one round does not change what is known of a point', async () => {
  // Three rounds over two points; the second round takes ten times as long.
  const secondsOf = (n: number) => (n === 2 || n === 3 ? 10 : 1);
  const { events, closed } = await measure({ points: 2, roundsMax: 3, budgetMs: 1e6, secondsOf });
  expect(events.map(({ index, seconds }) => [index, seconds])).toEqual([
    [0, 1],
    [1, 1],
    [0, 1],
    [1, 1],
    [0, 1],
    [1, 1],
  ]);
  expect(events.at(-1)?.progress).toBe(1);
  expect(closed).toBe(1);
});

test('the budget ends the rounds, and leaves points out when it ends the first', async () => {
  const secondsOf = () => 1;
  const some = await measure({ points: 10, roundsMax: 5, budgetMs: 45, secondsOf });
  expect(some.events.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4]);
  const more = await measure({ points: 3, roundsMax: 5, budgetMs: 45, secondsOf });
  expect(more.events.map(({ index }) => index)).toEqual([0, 1, 2, 0, 1]);
});

test('a point that two rounds agree on is settled', async () => {
  // Point 0 is measured as 1 and 1.01; point 1 as 1, then 1.5, then 1.01.
  const values = [1, 1, 1.01, 1.5, 1.01];
  const secondsOf = (n: number) => values[n] ?? 9;
  const { events } = await measure({ points: 2, roundsMax: 5, budgetMs: 1e6, secondsOf });
  expect(events.map(({ index }) => index)).toEqual([0, 1, 0, 1, 1]);
});

test('what the budget has left goes to the points that have not had their share', async () => {
  // Point 1 takes 60 ms of the clock, more than its share of 50; point 0 takes 10.
  const { events } = await measure({
    points: 2,
    roundsMax: 5,
    budgetMs: 100,
    secondsOf: (n) => 1 + n,
    extraMs: (n) => (n === 1 ? 50 : 0),
  });
  expect(events.map(({ index }) => index)).toEqual([0, 1, 0, 0, 0]);
});

test('a caller who goes away stops it; the buffers are freed', async () => {
  const { events, closed } = await measure({
    points: 10,
    roundsMax: 1,
    budgetMs: 1e6,
    secondsOf: () => 1,
    cancelledAfter: 3,
  });
  expect(events).toHaveLength(3);
  expect(closed).toBe(1);
});

test('a refusal ends it, and the next run may begin', async () => {
  const refuse = () => {
    throw new Error('busy');
  };
  const given = { points: 1, roundsMax: 1, budgetMs: 1e6, secondsOf: () => 1, refuse };
  const { outcome, closed, run, request } = await measure(given);
  await expect(outcome).rejects.toThrow('busy');
  expect(closed).toBe(0); // nothing was opened
  await expect(
    run(
      request,
      () => {},
      () => false,
    ),
  ).rejects.toThrow('busy');
});
