import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { hashAnswer, hashVocabRows, KvHashRank } from '../support/kv-hash-rank.ts';
import {
  type Action,
  checkEmpty,
  finish,
  play,
  prefixHashes,
  World,
} from '../support/scheduler-world.ts';

const token = fc.nat({ max: hashVocabRows - 1 });
const ranks = 2;

/** Most prompts begin like others: with a part of one of two texts. */
const texts = [
  [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5],
  [3, 1, 4, 1, 4, 1, 4, 1, 3, 1, 4],
];
const prompt = fc
  .record({
    text: fc.nat({ max: 1 }),
    shared: fc.nat({ max: 11 }),
    own: fc.array(token, { maxLength: 4 }),
  })
  .map(({ text, shared, own }) => [...(texts[text] ?? []).slice(0, shared), ...own])
  .filter(({ length }) => length > 0);

const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      type: fc.constant('add' as const),
      prompt,
      maxTokens: fc.integer({ min: 1, max: 16 }),
      stop: fc.array(token, { maxLength: 2 }),
      salt: fc.constantFrom('', '', '', 'tenant', null),
      priority: fc.constantFrom(0, 0, 0, -1, 2),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('cancel' as const), which: fc.nat() }) },
  { weight: 6, arbitrary: fc.constant({ type: 'schedule' as const }) },
  {
    weight: 3,
    arbitrary: fc.record({ type: fc.constant('run' as const), rank: fc.nat({ max: ranks - 1 }) }),
  },
  { weight: 5, arbitrary: fc.constant({ type: 'answer' as const }) },
);

const setting = fc
  .record({
    kvBlocks: fc.integer({ min: 2, max: 14 }),
    kvBlockTokens: fc.integer({ min: 1, max: 3 }),
    stepTokensMax: fc.integer({ min: 1, max: 16 }),
    sequences: fc.integer({ min: 1, max: 5 }),
    contextTokensMax: fc.integer({ min: 8, max: 32 }),
    waitingMax: fc.integer({ min: 1, max: 6 }),
    stepsInFlightMax: fc.integer({ min: 1, max: 3 }),
  })
  .map(({ sequences, stepsInFlightMax, ...rest }) => ({
    stepsInFlightMax,
    limits: { ...rest, sequencesMax: Math.min(sequences, rest.stepTokensMax) },
  }));

describe('scheduler', () => {
  it.each(['none', 'good', 'weak', 'constant'] as const)(
    'gives every request its own tokens, keeps its books, and lets nobody wait for ever: prefix hash %s',
    (hash) => {
      let preempted = 0;
      let hits = 0;
      let evictions = 0;
      fc.assert(
        fc.property(
          setting,
          fc.array(action, { maxLength: 400, size: 'max' }),
          ({ limits, stepsInFlightMax }, actions) => {
            const world = new World(limits, prefixHashes[hash]);
            play(world, actions, stepsInFlightMax);
            finish(world, stepsInFlightMax);
            const { counts } = world.scheduler;
            preempted += counts.preempted;
            hits += counts.prefixHitTokens;
            evictions += counts.prefixEvictions;
            checkEmpty(world, limits);
          },
        ),
        { numRuns: 250 },
      );
      // Otherwise the pools were too large, or the prompts too different, to test it.
      expect(preempted).toBeGreaterThan(3);
      if (hash === 'none') expect([hits, evictions]).toEqual([0, 0]);
      else expect(Math.min(hits, evictions)).toBeGreaterThan(5);
    },
    60_000,
  );

  it('shows lost KV in the text: the check above can fail', () => {
    const rank = new KvHashRank(2);
    const other = new KvHashRank(2);
    const prompt = [3, 1, 4, 1];
    const whole = { slot: 0, takeSampled: false, startPosition: 0, sampling: {}, bannedTokens: [] };
    const [sampled] = rank.run({ sequences: [{ ...whole, tokens: prompt, blockTable: [0, 1] }] });
    expect([sampled?.tokenId]).toEqual(hashAnswer(prompt, 1));
    other.run({ sequences: [{ ...whole, tokens: prompt, blockTable: [0, 1] }] });
    other.run({ sequences: [{ ...whole, slot: 1, tokens: [9], blockTable: [1] }] });
    const next = {
      ...whole,
      takeSampled: true,
      tokens: [],
      startPosition: 4,
      blockTable: [0, 1, 2],
    };
    expect(other.run({ sequences: [next] })).not.toEqual(rank.run({ sequences: [next] }));
  });
});
