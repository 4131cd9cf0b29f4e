/** KV that has to make room and comes back: parked and moved, or dropped and computed again, at points that chance decides. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { SchedulerLimits } from '../../controller/scheduler/scheduler.ts';
import { hashVocabRows } from '../support/kv-hash-rank.ts';
import {
  type Action,
  checkEmpty,
  finish,
  play,
  prefixHashes,
  World,
} from '../support/scheduler-world.ts';

const token = fc.nat({ max: hashVocabRows - 1 });

const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      type: fc.constant('add' as const),
      // Short alphabets: prompts that begin like others.
      prompt: fc.array(fc.nat({ max: 1 }), { minLength: 1, maxLength: 12 }),
      maxTokens: fc.integer({ min: 4, max: 20 }),
      stop: fc.array(token, { maxLength: 1 }),
      salt: fc.constantFrom('', '', null),
      priority: fc.constantFrom(0, 0, 0, -1, 2),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('cancel' as const), which: fc.nat() }) },
  { weight: 8, arbitrary: fc.constant({ type: 'schedule' as const }) },
  {
    weight: 3,
    arbitrary: fc.record({ type: fc.constant('run' as const), rank: fc.nat({ max: 1 }) }),
  },
  { weight: 7, arbitrary: fc.constant({ type: 'answer' as const }) },
);

const setting = fc
  .record({
    kvBlocks: fc.integer({ min: 6, max: 20 }),
    kvBlockTokens: fc.integer({ min: 1, max: 4 }),
    stepTokensMax: fc.integer({ min: 4, max: 16 }),
    sequencesMax: fc.integer({ min: 2, max: 4 }),
    stepsInFlightMax: fc.integer({ min: 1, max: 3 }),
    parkedBlocks: fc.integer({ min: 1, max: 24 }),
    movesPerStepMax: fc.integer({ min: 1, max: 5 }),
    /** Of ten blocks that must make room, those that are dropped although they could be parked. */
    dropsOfTen: fc.constantFrom(0, 0, 1, 5),
    seed: fc.nat(),
    policy: fc.constantFrom(
      ...[{}, {}, { replaysWhole: true }],
      ...[{ reserveTokens: 1 }, { reserveTokens: 7 }],
    ),
    /** Of each rank's own room, in percent of the runnable KV and, above 100, of the parked. */
    roomPercents: fc.constantFrom(
      ...[null, [100, 100], [40, 200], [160, 10], [0, 120], [60, 30], [70, 100], [200, 80]],
    ),
    recallsPerStepMax: fc.integer({ min: 0, max: 4 }),
    hash: fc.constantFrom('none' as const, 'good' as const, 'weak' as const),
  })
  .map(
    ({
      parkedBlocks,
      movesPerStepMax,
      dropsOfTen,
      seed,
      stepsInFlightMax,
      hash,
      policy,
      roomPercents,
      ...rest
    }) => {
      let state = seed;
      const choice = {
        recalls: () => true,
        // Whatever is parked ahead is parked by choice: what is dropped then was needed.
        pays: () => dropsOfTen === 0,
        parks: () => {
          state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
          return (state >>> 8) % 10 >= dropsOfTen;
        },
      };
      const deviceBlocks = roomPercents?.map((percent) =>
        percent <= 100
          ? Math.floor((rest.kvBlocks * percent) / 100)
          : rest.kvBlocks + Math.floor((parkedBlocks * (percent - 100)) / 100),
      );
      const limits: SchedulerLimits = {
        ...rest,
        ...policy,
        localBlocks: Math.min(rest.kvBlocks, ...(deviceBlocks ?? [])),
        contextTokensMax: 36,
        waitingMax: 12,
        parking: { blocks: parkedBlocks, movesPerStepMax, choice },
      };
      return { limits, stepsInFlightMax, hash, deviceBlocks: deviceBlocks ?? null };
    },
  );

describe('parking', () => {
  it('changes no token, loses no block and lets nobody wait for ever, whatever is parked or dropped when and wherever it lies', () => {
    const seen = {
      parked: 0,
      reloaded: 0,
      dropped: 0,
      replayed: 0,
      preempted: 0,
      remote: 0,
      recalled: 0,
    };
    fc.assert(
      fc.property(
        setting,
        fc.array(action, { maxLength: 300, size: 'max' }),
        ({ limits, stepsInFlightMax, hash, deviceBlocks }, actions) => {
          const world = new World(limits, prefixHashes[hash], deviceBlocks);
          play(world, actions, stepsInFlightMax);
          finish(world, stepsInFlightMax);
          const { counts } = world.scheduler;
          seen.parked += counts.parkedBlocks;
          seen.reloaded += counts.reloadedTokens;
          seen.dropped += counts.droppedTokens;
          seen.replayed += counts.recomputedTokens;
          seen.preempted += counts.preempted;
          seen.remote += world.remoteBlocks;
          seen.recalled += counts.recalledBlocks;
          const { parkedBlocks, reloadedBlocks, recalledBlocks } = counts;
          expect(parkedBlocks + reloadedBlocks + recalledBlocks).toBe(world.movedBlocks);
          if (limits.reserveTokens !== undefined) expect(counts.preempted).toBe(0);
          if (limits.replaysWhole) expect(counts.parkedBlocks).toBe(0);
          checkEmpty(world, limits);
        },
      ),
      { numRuns: 1_000 },
    );
    // Otherwise the pools were too large to test it.
    const { recalled, ...others } = seen;
    expect(Math.min(...Object.values(others))).toBeGreaterThan(200);
    expect(recalled).toBeGreaterThan(40);
  }, 120_000);
});

describe('over-subscription', () => {
  /** Sequences that together need `times` the pool, all there at once. */
  function overSubscribed(times: number, parkedBlocks: number) {
    const limits: SchedulerLimits = {
      kvBlocks: 64,
      kvBlockTokens: 4,
      stepTokensMax: 32,
      sequencesMax: 16,
      contextTokensMax: 64,
      waitingMax: 64,
      parking: { blocks: parkedBlocks },
    };
    const world = new World(limits);
    const blocksEach = 16;
    const sequences = (times * limits.kvBlocks) / blocksEach;
    for (let index = 0; index < sequences; index += 1) world.add([index, 7, 7, 7], 60, []);
    finish(world, 2);
    return {
      counts: world.scheduler.counts,
      moved: world.movedBlocks,
      needed: sequences * blocksEach,
    };
  }

  it.each([2, 4])(
    'of %i times does not thrash: what exceeds the pool travels once there and back',
    (times) => {
      const { counts, moved, needed } = overSubscribed(times, 1_000);
      expect(counts.preempted).toBeGreaterThan(1);
      expect(counts.recomputedTokens).toBe(0);
      expect(moved).toBeGreaterThan(0);
      expect(moved).toBeLessThanOrEqual(2 * (needed - counts.kvBlocksTotal));
    },
  );

  it('computes again only what there was no parked address for', () => {
    const without = overSubscribed(2, 0);
    const some = overSubscribed(2, 8);
    expect([without.moved, some.moved > 0]).toEqual([0, true]);
    expect(without.counts.recomputedTokens).toBeGreaterThan(some.counts.recomputedTokens);
    expect(some.counts.recomputedTokens).toBeGreaterThan(0);
  });
});
