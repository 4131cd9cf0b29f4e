import { describe, expect, test } from 'vitest';
import { plan } from '../../../controller/planner/plan.ts';
import { generateTrace } from '../../../controller/simulator/trace/generate-trace.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { device } from '../planner/inputs.ts';
import { arrival, scenario, simulate } from './scenarios.ts';

/** The weights of the small model on one device: 160 + 4*512 + 16*96 + 10*16. */
const weightBytes = 3904;
/** KV of one token of all 4 head groups. */
const kvBytesPerToken = 128;

describe('one device, by hand', () => {
  // Decode 1 s + 0.5 s a token; prefill 2 s + 0.25 s a token (16 columns, 0.015625 each).
  const only = device('only', {});
  only.decode = { constant: 1, perTokenFfnColumn: 0.5 / 16 };
  only.prefill = { constant: 2, perTokenFfnColumn: 0.25 / 16 };

  test('a prompt of 6 and two more tokens: 3.5 s, then 1.5 s each', () => {
    const report = simulate(scenario([only], [arrival(10, 6, 3)]));
    expect(report).toMatchObject({
      makespanSeconds: 6.5,
      ttftSeconds: { p50: 3.5, p99: 3.5 },
      tpotSeconds: { p50: 1.5 },
      throughput: { requestsPerSecond: 1 / 6.5, outputTokensPerSecond: 3 / 6.5 },
      requestTokensPerSecond: { p50: 3 / 6.5 },
      steps: 3,
      computedTokens: 8,
      recomputedTokens: 0,
    });
    expect(report.throughput.tokensPerSecond).toBeCloseTo(9 / 6.5, 12);
    expect(report.ranks).toEqual([
      { device: 'only', computeSeconds: 6.5, linkSeconds: 0, idleShare: 0 },
    ]);
    // 2 of 64 blocks throughout: 6, then 7, then 8 positions, the prefill's next token included.
    expect(report.kv).toMatchObject({ meanShare: 2 / 64, maxShare: 2 / 64 });
  });

  test('a second prompt shares a step with the first one decoding: decode lines at all tokens', () => {
    const report = simulate(scenario([only], [arrival(0, 4, 4), arrival(1, 3, 1)]));
    // Step 1, prompt of 4: 0 to 3. Step 2, its second token, was submitted at 0: 3 to 4.5. Step 3 is submitted at 3 and holds the third
    // token and the prompt of 3: 1 + 4*0.5, 4.5 to 7.5. Step 4: the fourth token, 7.5 to 9.
    expect(report.makespanSeconds).toBe(9);
    expect(report.ttftSeconds).toMatchObject({ p50: (3 + 6.5) / 2 });
    expect(report.tpotSeconds.p50).toBe(2);
    expect(report.steps).toBe(4);
  });

  test('the way to the controller hides behind a step, and shows when it is longer', () => {
    const trace = [arrival(0, 6, 3)];
    const hidden = simulate(scenario([only], trace, { controlSeconds: 1 }));
    expect(hidden.makespanSeconds).toBe(6.5 + 1);
    const late = simulate(scenario([only], trace, { controlSeconds: 4 }));
    // Sent at 0, there at 2, done at 5.5 and 7; the third step leaves when the first is back, at 7.5, runs 9.5 to 11.
    expect(late.makespanSeconds).toBe(13);
  });

  test('goodput counts the requests that met both targets', () => {
    const trace = [arrival(0, 6, 3), arrival(100, 6, 1), arrival(200, 8, 2)];
    const serviceLevel = { ttftSeconds: 3.5, tpotSeconds: 1.5 };
    const report = simulate(scenario([only], trace, { serviceLevel }));
    // The last one's prompt takes 4 s.
    expect(report.goodput).toMatchObject({ ...serviceLevel, shareOfArrived: 2 / 3 });
    expect(report.goodput.requestsPerSecond).toBe(2 / report.makespanSeconds);
  });
});

describe('several ranks', () => {
  const half = (slowdown: number) => [
    device('fast', { perHeadGroup: 1 }),
    device('slow', { perHeadGroup: slowdown }),
  ];

  test('a rank twice as slow dominates every step', () => {
    const trace = [arrival(0, 4, 5), arrival(0, 4, 5)];
    const even = simulate(scenario(half(1), trace));
    const uneven = simulate(scenario(half(2), trace));
    expect(even.makespanSeconds).toBe(2 * even.steps);
    expect(uneven.makespanSeconds).toBe(2 * even.makespanSeconds);
    expect(uneven.ranks.map(({ idleShare }) => idleShare)).toEqual([0.5, 0]);
  });

  test('the link is paid by ranks that share a model, each its own', () => {
    const devices = half(1);
    devices[1]!.link = { constant: 0.5, perToken: 0.25 };
    const report = simulate(scenario(devices, [arrival(0, 4, 2)]));
    // 2 s a rank, and 0.5 + 4*0.25, then 0.5 + 0.25.
    expect(report.makespanSeconds).toBe(2 + 1.5 + 2 + 0.75);
    expect(report.ranks[1]).toMatchObject({ computeSeconds: 4, linkSeconds: 2.25, idleShare: 0 });
    expect(report.ranks[0]?.idleShare).toBeCloseTo(2.25 / 6.25, 12);
  });

  test('hels serves the same trace in less time than equal', () => {
    const trace = generateTrace(
      {
        process: { type: 'burst' },
        count: 20,
        lengths: { type: 'fixed', promptTokens: 8, outputTokens: 8 },
      },
      1,
    );
    const equal = simulate(scenario(half(3), trace, { policy: 'equal' }));
    const hels = simulate(scenario(half(3), trace, { policy: 'hels' }));
    expect(hels.makespanSeconds).toBeLessThan(equal.makespanSeconds);
    expect(hels.outputTokens).toBe(equal.outputTokens);
  });
});

describe('bounded room', () => {
  /** 8 blocks of 4 tokens. */
  const tight = [
    device(
      'only',
      { perTokenFfnColumn: 1 / 16 },
      { memoryBytes: weightBytes + 32 * kvBytesPerToken },
    ),
  ];

  test('overload preempts, computes again what it gave up, and still ends', () => {
    const trace = Array.from({ length: 30 }, () => arrival(0, 6, 14));
    const report = simulate(scenario(tight, trace));
    expect(report.requests).toMatchObject({ arrived: 30, completed: 30 });
    expect(report.outputTokens).toBe(30 * 14);
    expect(report.preemptions).toBeGreaterThan(0);
    expect(report.recomputedTokens).toBeGreaterThan(0);
    expect(report.kv).toMatchObject({ tokens: 32, maxShare: 1 });
    // One second a token: nothing is computed that is not counted.
    expect(report.makespanSeconds).toBeCloseTo(report.computedTokens, 9);
  });

  test('requests longer than the room are refused and counted, the others served', () => {
    const report = simulate(scenario(tight, [arrival(0, 30, 3), arrival(1, 30, 2)]));
    expect(report.requests).toEqual({
      arrived: 2,
      completed: 1,
      refusedTooLong: 1,
      refusedOverloaded: 0,
      refusedNotReady: 0,
      failed: 0,
    });
  });

  test('requests beyond the waiting room are refused as overloaded', () => {
    const trace = Array.from({ length: 5 }, () => arrival(0, 6, 4));
    const options = scenario(tight, trace);
    const report = simulate({ ...options, limits: { ...options.limits, waitingMax: 3 } });
    expect(report.requests).toMatchObject({ completed: 3, refusedOverloaded: 2 });
  });

  test('weights that do not fit are refused with the plan’s reason', () => {
    const small = [device('only', { constant: 1 }, { memoryBytes: weightBytes - 1 })];
    expect(() => simulate(scenario(small, [arrival(0, 1, 1)]))).toThrow(HelsError);
    expect(() => simulate(scenario(small, [arrival(0, 1, 1)]))).toThrow(
      /policy equal cannot serve: memory: device 'only'/,
    );
  });
});

describe('chance', () => {
  const pair = [device('a', { perHeadGroup: 0.01 }), device('b', { perHeadGroup: 0.01 })];
  const generated = (seed: number) =>
    generateTrace(
      {
        process: { type: 'poisson', ratePerSecond: 5 },
        count: 50,
        lengths: { type: 'fixed', promptTokens: 10, outputTokens: 10 },
      },
      seed,
    );

  test('the same seed gives the same report, another seed another one', () => {
    const run = (seed: number) => simulate(scenario(pair, generated(seed), { noise: 0.1, seed }));
    expect(run(7)).toEqual(run(7));
    expect(run(8).makespanSeconds).not.toBe(run(7).makespanSeconds);
  });

  test('noise makes the slower of the ranks count in each step', () => {
    const calm = simulate(scenario(pair, generated(1)));
    const noisy = simulate(scenario(pair, generated(1), { noise: 0.2 }));
    expect(calm.ranks.every(({ idleShare }) => Math.abs(idleShare) < 1e-9)).toBe(true);
    expect(noisy.ranks.every(({ idleShare }) => idleShare > 0.03)).toBe(true);
  });
});

test('one request takes what the planner predicts, in lockstep too', () => {
  const lines = (slow: number) => ({ perHeadGroup: 2 * slow, perFfnColumn: 0.5 / slow });
  const devices = [device('left', lines(1)), device('right', lines(3))];
  for (const objective of ['step', 'lockstep'] as const) {
    const workload = { sequences: 1, contextTokens: 9, prefillChunk: 8, outputTokens: 0 };
    const link = { constant: 1, perToken: 0.25, perTokenRing: objective === 'step' ? 0 : 2 };
    const { input: base, ...options } = scenario(devices, [arrival(0, 8, 2)]);
    const input = { ...base, workload, link, objective, policy: 'equal' as const };
    const made = plan(input, () => 0);
    const report = simulate({ ...options, input, plan: made });
    expect(report.ttftSeconds.p50).toBeCloseTo(made.predicted.prefillSeconds, 9);
    expect(report.tpotSeconds.p50).toBeCloseTo(made.predicted.decodeSeconds, 9);
    const slowest = Math.max(...made.predicted.perRankSeconds);
    if (objective === 'step') expect(made.predicted.decodeSeconds).toBe(slowest);
    else expect(made.predicted.decodeSeconds).toBeGreaterThan(slowest);
  }
});
