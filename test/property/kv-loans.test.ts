/** KV on other ranks over random clusters: every address has one home, nothing exceeds its memory, and it is never a loss of room. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { makePlan } from '../../controller/deployment/make-plan.ts';
import { largestLoans } from '../../controller/planner/kv-loans.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import { checkResidency, residencyOf } from '../../proto/domain/kv-residency.ts';
import { kvBytesPerToken } from '../../proto/domain/model-spec.ts';
import { propertyDeadlineMs, propertyRuns } from '../support/property-runs.ts';
import { smallModel } from '../unit/profiler/models.ts';

const rank = fc.record({
  roomBytes: fc.integer({ min: 0, max: 100_000 }),
  headGroups: fc.integer({ min: 0, max: 6 }),
  contextSeconds: fc.double({ min: 0, max: 1, noNaN: true }),
});

it('stores every block once, within the rooms', () => {
  let lent = 0;
  fc.assert(
    fc.property(
      fc.array(rank, { minLength: 1, maxLength: 8 }),
      fc.constantFrom(64, 256),
      (ranks, kvBlockTokens) => {
        fc.pre(ranks.some(({ headGroups }) => headGroups > 0));
        const found = largestLoans(ranks, 100);
        const own = ranks.flatMap(({ roomBytes, headGroups }) =>
          headGroups > 0 ? Math.floor(roomBytes / (headGroups * 100)) : [],
        );
        const without = Math.min(...own);
        expect(found?.kvBlocks ?? 0).toBeGreaterThanOrEqual(without);
        if (found === null) return;
        const { kvBlocks, loans, ownBlocks, storedBytes } = found;
        const deviceBlocks = [...ownBlocks];
        const residency = { kvBlocks, kvParkedBlocks: 0, kvBlockTokens, deviceBlocks, loans };
        checkResidency(residency);
        lent += loans.length;
        ranks.forEach(({ roomBytes, headGroups }, index) => {
          const held = loans
            .filter(({ holder }) => holder === index)
            .reduce((sum, { owner, blocks }) => {
              return sum + (blocks.end - blocks.begin) * (ranks[owner]?.headGroups ?? 0) * 100;
            }, 0);
          const stored = (ownBlocks[index] ?? 0) * headGroups * 100 + held;
          expect(storedBytes[index]).toBeCloseTo(stored, 6);
          expect(stored).toBeLessThanOrEqual(roomBytes);
        });
        const all = kvBlocks * ranks.reduce((sum, { headGroups }) => sum + headGroups, 0) * 100;
        expect(storedBytes.reduce((sum, bytes) => sum + bytes, 0)).toBeCloseTo(all, 5);
      },
    ),
    { numRuns: propertyRuns(500) },
  );
  expect(lent).toBeGreaterThan(100);
});

const profiled = fc.record({
  memory: fc.integer({ min: 6 * 2 ** 20, max: 60 * 2 ** 20 }),
  host: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 2 ** 25 })),
  slowness: fc.double({ min: 0.5, max: 4, noNaN: true }),
});

it(
  'makes plans that workers accept, on loan and parked at once',
  () => {
    const seen = { plans: 0, loans: 0, parked: 0 };
    fc.assert(
      fc.property(
        fc.array(profiled, { minLength: 2, maxLength: 4 }),
        fc.integer({ min: 1, max: 24 }),
        (ranks, sequences) => {
          const devices = ranks.map(({ memory, host, slowness }, index) => {
            const line = {
              perHeadGroup: 1e-3 * slowness,
              perFfnColumn: 1e-5 * slowness,
              perContextHeadGroup: 1e-8 * slowness,
            };
            const link = { constant: 1e-5, perToken: 1e-7 };
            const lines = { decode: [line], prefill: [line], link };
            const bytes = { memoryBytes: memory, reservedBytes: 0, hostMemoryBytes: host };
            return { id: `w${index}`, ...bytes, ...lines };
          });
          const workload = { sequences, contextTokens: 128, prefillChunk: 64, outputTokens: 8 };
          try {
            const { shardPlan } = makePlan(
              {
                epoch: 1,
                modelId: 'm',
                modelPath: '/m',
                modelDigest: 'd',
                model: smallModel,
                devices,
                workload: { ...workload, allowRemoteKv: true },
                policy: 'hels',
                manual: [],
                numerics: 'exact',
                stepTokensMax: 512,
                sequencesMax: 64,
                parks: true,
                settles: false,
                kvBlockTokens: 64,
              },
              () => 0,
            );
            checkResidency(residencyOf(shardPlan));
            for (const { workerId, weightBytes, kvBytes, kvHostBytes } of shardPlan.ranks) {
              const device = devices.find(({ id }) => id === workerId);
              expect(weightBytes + kvBytes).toBeLessThanOrEqual(device?.memoryBytes ?? 0);
              expect(kvHostBytes).toBeLessThanOrEqual(device?.hostMemoryBytes ?? 0);
            }
            const stored = shardPlan.ranks.reduce((sum, { kvBytes, kvHostBytes }) => {
              return sum + kvBytes + kvHostBytes;
            }, 0);
            const { kvBlocks, kvParkedBlocks } = shardPlan;
            // What has no room at once waits.
            expect((kvBlocks + kvParkedBlocks) * 64).toBeGreaterThanOrEqual(sequences * 128);
            const all = kvBytesPerToken(smallModel, smallModel.headGroups) * 64;
            expect(stored).toBeCloseTo((kvBlocks + kvParkedBlocks) * all, 3);
            expect(shardPlan.ranks.reduce((sum, { kvShare }) => sum + kvShare, 0)).toBeCloseTo(
              1,
              9,
            );
            seen.plans += 1;
            seen.loans += Number(shardPlan.kvLoans.length > 0);
            seen.parked += Number(kvParkedBlocks > 0);
          } catch (error) {
            if (!(error instanceof HelsError) || error.code !== 'plan-infeasible') throw error;
          }
        },
      ),
      { numRuns: propertyRuns(150) },
    );
    expect(Math.min(...Object.values(seen))).toBeGreaterThan(10);
  },
  propertyDeadlineMs(60_000),
);
