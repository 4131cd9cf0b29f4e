/** When the controller plans anew by itself: not for what passes, not again and again, and surely when it pays. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { observeLoad, workloadAt } from '../../controller/deployment/operating-point.ts';
import {
  beganServing,
  decideReplan,
  type ReplanState,
  replanRules,
} from '../../controller/deployment/replan-decision.ts';
import type { PayBack } from '../../controller/profiler/drift.ts';
import { propertyRuns } from '../support/property-runs.ts';

const { gainMin, payBackSecondsMax, sustainMs, holdMs } = replanRules;
const lookMs = 5_000;
const good: PayBack = { gainPerSecond: 0.3, seconds: 20 };
const bad: PayBack = { gainPerSecond: 0.05, seconds: 20 };

/** Times of the re-plans when `valueAt` is looked at every few seconds. */
function run(
  lengthMs: number,
  valueAt: (nowMs: number, replans: number) => PayBack | null,
): number[] {
  let state: ReplanState = beganServing(0);
  const times: number[] = [];
  for (let nowMs = 0; nowMs <= lengthMs; nowMs += lookMs) {
    const step = decideReplan(state, valueAt(nowMs, times.length), nowMs);
    state = step.state;
    if (step.replan) times.push(nowMs);
  }
  return times;
}

describe('the decision to plan anew', () => {
  it('comes when a gain has lasted, after the hold', () => {
    expect(run(400_000, () => good)).toEqual([holdMs + sustainMs, 2 * (holdMs + sustainMs)]);
    expect(run(400_000, (_, replans) => (replans === 0 ? good : bad))).toHaveLength(1);
  });

  it.each<[string, PayBack | null]>([
    ['too little gain', { gainPerSecond: gainMin - 0.01, seconds: 1 }],
    ['a move that pays back too late', { gainPerSecond: 0.3, seconds: payBackSecondsMax + 1 }],
    ['no use at all', { gainPerSecond: 0, seconds: Number.POSITIVE_INFINITY }],
    ['no load', null],
  ])('does not come for %s', (_, value) => {
    expect(run(1_000_000, () => value)).toEqual([]);
  });

  it('does not follow a load that swings faster than it looks for', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: lookMs, max: sustainMs - lookMs }),
        fc.integer({ min: lookMs, max: 60_000 }),
        (highMs, lowMs) => {
          const swings = (nowMs: number) => (nowMs % (highMs + lowMs) < highMs ? good : bad);
          expect(run(1_000_000, swings)).toEqual([]);
        },
      ),
      { numRuns: propertyRuns(200) },
    );
  });

  it('lets a hold and the time of proof lie between two re-plans, whatever the load does', () => {
    const value = fc.constantFrom<PayBack | null>(good, good, good, bad, null);
    fc.assert(
      fc.property(fc.array(value, { minLength: 50, maxLength: 400, size: 'max' }), (values) => {
        const times = run(values.length * lookMs, (nowMs) => values[nowMs / lookMs] ?? null);
        for (const [index, time] of times.entries()) {
          expect(time - (times[index - 1] ?? 0)).toBeGreaterThanOrEqual(holdMs + sustainMs);
          // Every look in the time before it said so.
          for (let ms = time - sustainMs; ms <= time; ms += lookMs) {
            expect(values[ms / lookMs]).toBe(good);
          }
        }
      }),
      { numRuns: propertyRuns(300) },
    );
  });

  it('does not flap: a plan that is the best at the new load ends it', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat({ max: 2 }), { minLength: 1, maxLength: 6 }),
        fc.integer({ min: holdMs + 2 * sustainMs, max: 600_000 }),
        (loads, phaseMs) => {
          let served = 0;
          const loadAt = (nowMs: number) => loads[Math.floor(nowMs / phaseMs)] ?? loads.at(-1) ?? 0;
          let replans = 0;
          run(loads.length * phaseMs + holdMs + sustainMs, (nowMs, count) => {
            // The one of the last look serves.
            if (count > replans) served = loadAt(nowMs - lookMs);
            replans = count;
            return loadAt(nowMs) === served ? bad : good;
          });
          const shifts = loads.filter((load, index) => load !== (loads[index - 1] ?? 0)).length;
          expect(replans).toBe(shifts);
        },
      ),
      { numRuns: propertyRuns(200) },
    );
  });
});

describe('the load that is served', () => {
  const decode = (sequences: number, context: number) => ({
    decodeTokens: sequences,
    decodeContextTokens: sequences * context,
    prefillTokens: 0,
    prefillContextTokens: 0,
  });

  it('is the first one at once, and another one after a while', () => {
    let mean = observeLoad(null, decode(8, 100), 0.1);
    expect(mean).toEqual(decode(8, 100));
    for (let step = 0; step < 10; step += 1) mean = observeLoad(mean, decode(32, 200), 0.1);
    expect(mean?.decodeTokens).toBeLessThan(12);
    for (let step = 0; step < 600; step += 1) mean = observeLoad(mean, decode(32, 200), 0.1);
    expect(mean && workloadAt(mean)).toEqual({ sequences: 32, contextTokens: 200 });
  });

  it('stays within what was observed', () => {
    const step = fc.tuple(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 1, max: 1000 }));
    fc.assert(
      fc.property(fc.array(step, { minLength: 1 }), (steps) => {
        let mean = null as ReturnType<typeof observeLoad>;
        for (const [sequences, context] of steps)
          mean = observeLoad(mean, decode(sequences, context), 1);
        const counts = steps.map(([sequences]) => sequences);
        expect(mean?.decodeTokens).toBeGreaterThanOrEqual(Math.min(...counts) - 1e-9);
        expect(mean?.decodeTokens).toBeLessThanOrEqual(Math.max(...counts) + 1e-9);
      }),
      { numRuns: propertyRuns(100) },
    );
  });

  it('says nothing of a plan when hardly anything decodes', () => {
    expect(workloadAt({ ...decode(0, 0), prefillTokens: 200 })).toBeNull();
  });
});
