import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { initialDrift, judgeDrift, payBackOf } from '../../controller/profiler/drift.ts';
import {
  initialOnline,
  type OnlineState,
  observeStep,
  ratioOf,
  refineLines,
} from '../../controller/profiler/online.ts';

const predicted = 0.002;

const run = (state: OnlineState, ratios: readonly number[]) =>
  ratios.reduce((now, ratio) => observeStep(now, predicted, predicted * ratio), state);

/** `count` ratios around `ratio`, each off by at most `noise`. */
const around = (ratio: number, noise: number, count: number) =>
  fc
    .array(fc.double({ min: -noise, max: noise, noNaN: true }), {
      minLength: count,
      maxLength: count,
    })
    .map((errors) => errors.map((error) => ratio * (1 + error)));

const speed = fc.double({ min: 0.1, max: 20, noNaN: true });

describe('the filter of measured over predicted', () => {
  it('converges to any speed and to a changed one, through noise', () => {
    const steps = fc
      .tuple(speed, speed)
      .chain(([before, after]) =>
        fc.tuple(
          fc.constant(before),
          fc.constant(after),
          around(before, 0.05, 60),
          around(after, 0.05, 150),
        ),
      );
    fc.assert(
      fc.property(steps, ([before, after, first, second]) => {
        const settled = run(initialOnline, first);
        expect(ratioOf(settled) / before).toBeGreaterThan(0.94);
        expect(ratioOf(settled) / before).toBeLessThan(1.06);
        const changed = run(settled, second);
        expect(ratioOf(changed) / after).toBeGreaterThan(0.93);
        expect(ratioOf(changed) / after).toBeLessThan(1.07);
      }),
    );
  });

  it('stays finite and positive whatever it is given, and so do the refined lines', () => {
    const any = fc.oneof(fc.double(), fc.constant(0), fc.constant(-1), fc.constant(1e300));
    fc.assert(
      fc.property(fc.array(fc.tuple(any, any), { maxLength: 80 }), (pairs) => {
        const state = pairs.reduce((now, [p, m]) => observeStep(now, p, m), initialOnline);
        const ratio = ratioOf(state);
        expect(Number.isFinite(ratio)).toBe(true);
        expect(ratio).toBeGreaterThan(0);
        const [line] = refineLines([{ constant: 1e-3, perHeadGroup: 0 }], ratio);
        expect(line?.constant).toBeGreaterThan(0);
        expect(line?.perHeadGroup).toBe(0);
        expect(line?.perTokenHeadGroup).toBeUndefined();
      }),
    );
  });

  it('does not move for single outliers of any size', () => {
    const outliers = fc.array(
      fc.tuple(fc.double({ min: 3, max: 1000, noNaN: true }), fc.boolean()),
      {
        minLength: 1,
        maxLength: 6,
      },
    );
    fc.assert(
      fc.property(speed, outliers, (ratio, wild) => {
        const state = run(initialOnline, new Array(40).fill(ratio));
        const disturbed = wild.reduce(
          (now, [factor, up]) =>
            run(now, [up ? ratio * factor : ratio / factor, ratio, ratio, ratio]),
          state,
        );
        expect(ratioOf(disturbed) / ratio).toBeCloseTo(1, 6);
      }),
    );
  });

  it('recovers when the very first step is an outlier', () => {
    expect(ratioOf(run(initialOnline, [50, ...new Array(60).fill(1.1)]))).toBeCloseTo(1.1, 6);
  });
});

describe('drift', () => {
  const at = (ratio: number, steps = 100): OnlineState => ({
    ...initialOnline,
    steps,
    logRatio: Math.log(ratio),
  });

  /** Whether it has drifted at the end of steps that take 5 s, each believed to be so many times what its lines say. */
  const driftAfter = (drifted: boolean, ratios: readonly number[], steps = 100) =>
    ratios.reduce((state, ratio, index) => judgeDrift(state, at(ratio, steps), 5_000 * index), {
      ...initialDrift,
      drifted,
    }).drifted;

  it('begins beyond the outer border and ends within the inner one only', () => {
    for (const ratio of [1.4, 1 / 1.4]) expect(driftAfter(false, [ratio, ratio, ratio])).toBe(true);
    expect(driftAfter(false, [1.2, 1.2, 1.2])).toBe(false);
    for (const ratio of [1.4, 1.2]) expect(driftAfter(true, [ratio, ratio, ratio])).toBe(true);
    expect(driftAfter(true, [1.1, 1.1, 1.1])).toBe(false);
  });

  it('is so for 10 s without having been back before it is said', () => {
    expect(driftAfter(false, [1.4, 1.4])).toBe(false);
    expect(driftAfter(false, [1.4, 1.2, 1.4])).toBe(true);
    expect(driftAfter(false, [1.4, 1.1, 1.4, 1.4])).toBe(false);
    expect(driftAfter(true, [1.1, 1.2, 1.1])).toBe(false);
    expect(driftAfter(true, [1.1, 1.4, 1.1, 1.1])).toBe(true);
  });

  it('does not count a pause between two steps', () => {
    const driftAt = (times: readonly number[]) =>
      times.reduce((state, nowMs) => judgeDrift(state, at(1.4), nowMs), initialDrift).drifted;
    expect(driftAt([0, 3_600_000])).toBe(false);
    expect(driftAt([0, 3_600_000, 3_604_000])).toBe(false);
    expect(driftAt([0, 3_600_000, 3_604_000, 3_609_000])).toBe(true);
  });

  it('says nothing before enough steps', () => {
    expect(driftAfter(false, [3, 3, 3], 31)).toBe(false);
    expect(driftAfter(false, [3, 3, 3], 32)).toBe(true);
  });

  it('a new plan pays back its moving time over the time it saves', () => {
    const half = payBackOf({ stepSeconds: 0.02, replannedStepSeconds: 0.01, movingSeconds: 3 });
    expect(half).toEqual({ gainPerSecond: 0.5, seconds: 6 });
    const none = { stepSeconds: 0.02, replannedStepSeconds: 0.02, movingSeconds: 3 };
    expect(payBackOf(none).seconds).toBe(Number.POSITIVE_INFINITY);
    expect(payBackOf({ ...none, replannedStepSeconds: 0.03 }).seconds).toBe(
      Number.POSITIVE_INFINITY,
    );
    expect(payBackOf({ ...none, stepSeconds: 0 }).seconds).toBe(Number.POSITIVE_INFINITY);
  });
});
