/** Whatever the load, the room and the split: every request ends exactly once, and no token is lost, repeated or unaccounted for. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { simulate } from '../../controller/simulator/simulate.ts';
import { device } from '../unit/planner/inputs.ts';
import { scenario } from '../unit/simulator/scenarios.ts';

const arrivals = fc.array(
  fc.record({
    gap: fc.constantFrom(0, 0.5, 3),
    promptTokens: fc.integer({ min: 1, max: 40 }),
    outputTokens: fc.integer({ min: 1, max: 20 }),
  }),
  { minLength: 1, maxLength: 40 },
);

const shape = fc.record({
  kvTokens: fc.integer({ min: 4, max: 120 }),
  slowdown: fc.constantFrom(1, 3),
  sequencesMax: fc.integer({ min: 1, max: 8 }),
  waitingMax: fc.constantFrom(2, 1000),
  controlSeconds: fc.constantFrom(0, 0.3, 5),
  policy: fc.constantFrom('equal' as const, 'hels' as const),
});

test('requests and tokens are conserved', () => {
  fc.assert(
    fc.property(
      arrivals,
      shape,
      (gaps, { kvTokens, slowdown, controlSeconds, policy, ...most }) => {
        let atSeconds = 0;
        const trace = gaps.map(({ gap, ...lengths }) => {
          atSeconds += gap;
          return { atSeconds, ...lengths };
        });
        // Half of the model weighs 2032 bytes and takes 64 bytes of KV a token.
        const memoryBytes = 2032 + 64 * kvTokens;
        const options = scenario(
          [
            device('a', { perTokenFfnColumn: 0.01 }, { memoryBytes }),
            device('b', { perTokenFfnColumn: 0.01 * slowdown }, { memoryBytes: 10 * memoryBytes }),
          ],
          trace,
          { policy, controlSeconds },
        );
        const limits = { ...options.limits, ...most };
        const { report, records } = simulate({ ...options, limits });
        const { arrived, completed, refusedTooLong, refusedOverloaded } = report.requests;
        expect(arrived).toBe(trace.length);
        expect(completed + refusedTooLong + refusedOverloaded).toBe(arrived);
        const fits = ({ promptTokens, outputTokens }: (typeof trace)[number]) =>
          promptTokens + outputTokens <= Math.min(limits.contextTokensMax, report.kv.tokens);
        expect(refusedTooLong).toBe(trace.filter((one) => !fits(one)).length);
        if (refusedOverloaded === 0) {
          const tokens = trace.filter(fits).reduce((sum, one) => sum + one.outputTokens, 0);
          expect(report.outputTokens).toBe(tokens);
        }
        // The last token of a request is sampled and never computed.
        const computedOnce = records.reduce(
          (sum, { arrival, tokens, outcome }) =>
            outcome === 'completed' ? sum + arrival.promptTokens + tokens - 1 : sum,
          0,
        );
        expect(report.computedTokens).toBe(computedOnce + report.recomputedTokens);
        if (report.preemptions === 0) expect(report.recomputedTokens).toBe(0);
        expect(report.kv.maxShare).toBeLessThanOrEqual(1);
      },
    ),
    { numRuns: 300, seed: 1 },
  );
});
