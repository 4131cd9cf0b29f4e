/** The prefix cache over many requests: what it saves, that it leaks nothing, and that it changes no token. */
import { describe, expect, it } from 'vitest';
import { propertyDeadlineMs, propertyRuns } from '../support/property-runs.ts';
import { finish, prefixHashes, World } from '../support/scheduler-world.ts';

/** Repeatable whole numbers from 0 to `below` - 1. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state * 48_271) % 2_147_483_647;
    return state % below;
  };
}

const limits = {
  kvBlocks: 40,
  kvBlockTokens: 4,
  stepTokensMax: 24,
  sequencesMax: 8,
  contextTokensMax: 64,
  waitingMax: 32,
};

type Random = ReturnType<typeof randomNumbers>;

/** A few turns of the controller and its ranks; more while too many requests wait. */
function turns(world: World, random: Random): void {
  for (let turn = random(4); turn > 0; turn -= 1) {
    if (world.inFlight < 2) world.schedule();
    if (random(2) === 0) world.run(random(2));
    if (random(3) > 0) world.answer();
  }
  while (world.scheduler.counts.waiting > 20) {
    if (world.inFlight === 2 || !world.schedule()) world.answer();
  }
}

/** Chats: a system prompt, then turns; a tenth goes away early. Every answer is checked against an undisturbed one. */
function serve(
  requests: number,
  hash: keyof typeof prefixHashes,
  seed: number,
  world = new World(limits, prefixHashes[hash]),
  answerTokensMax = 12,
): World {
  const random = randomNumbers(seed);
  const system = Array.from({ length: 3 }, () => Array.from({ length: 22 }, () => random(64)));
  for (let count = 0; count < requests; count += 1) {
    const chat = random(3);
    const turn = Array.from({ length: 1 + random(8) }, () => random(4));
    const salt = random(16) === 0 ? null : `tenant-${chat % 2}`;
    world.add([...(system[chat] ?? []), ...turn], 1 + random(answerTokensMax), [random(64)], salt);
    if (random(10) === 0) world.cancel(random(32));
    turns(world, random);
  }
  finish(world, 2);
  return world;
}

describe('prefix cache', () => {
  it(
    'is back where it began after 10,000 requests with cancels: nothing is held, nothing is lost',
    () => {
      const world = serve(propertyRuns(10_000), 'good', 7);
      const { counts } = world.scheduler;
      expect(counts).toMatchObject({ running: 0, waiting: 0, kvBlocksUsed: 0 });
      expect(counts.kvBlocksCached).toBeGreaterThan(0);
      expect(counts.prefixHitTokens).toBeGreaterThan(counts.prefixQueryTokens / 3);
      expect(counts.prefixEvictions).toBeGreaterThan(1_000);
      world.scheduler.checkIntegrity();
      // Everything can still be allocated at once.
      world.add([1], world.scheduler.contextTokensMax - 1, []);
      finish(world, 1);
    },
    propertyDeadlineMs(60_000),
  );

  it(
    'is back there, too, where KV is parked, dropped, on loan and cancelled meanwhile',
    () => {
      const parking = { blocks: 4, movesPerStepMax: 2 };
      const tight = { ...limits, kvBlocks: 20, localBlocks: 9, recallsPerStepMax: 3, parking };
      const world = new World(tight, prefixHashes.good, [9, 22]);
      serve(propertyRuns(10_000), 'good', 13, world, 30);
      const { counts } = world.scheduler;
      const nothing = { running: 0, waiting: 0, kvBlocksUsed: 0, kvParkedBlocksUsed: 0 };
      expect(counts).toMatchObject(nothing);
      const { parkedBlocks, reloadedBlocks, droppedTokens, prefixHitTokens } = counts;
      const seen = [parkedBlocks, reloadedBlocks, droppedTokens, prefixHitTokens];
      expect(Math.min(...seen, world.remoteBlocks)).toBeGreaterThan(500);
      world.scheduler.checkIntegrity();
      world.add([1], world.scheduler.contextTokensMax - 1, []);
      finish(world, 1);
    },
    propertyDeadlineMs(60_000),
  );

  it(
    'computes less for the same answers',
    () => {
      const [off, on] = [serve(1_000, 'none', 11), serve(1_000, 'good', 11)];
      expect(on.computedTokens).toBeLessThan(0.7 * off.computedTokens);
      expect(off.scheduler.counts.prefixQueryTokens).toBe(0);
    },
    propertyDeadlineMs(60_000),
  );
});
