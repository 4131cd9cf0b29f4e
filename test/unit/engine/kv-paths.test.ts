/** What KV that moves, is computed again or lies elsewhere should take, held against what it took. */
import { describe, expect, it } from 'vitest';
import { KvPathTracker } from '../../../controller/deployment/kv-path-tracker.ts';
import { KvPathObserver, type KvPathStep } from '../../../controller/engine/kv-path-observer.ts';
import { lentBytesOf } from '../../../controller/engine/lent-load.ts';
import { cheapestRestore } from '../../../controller/scheduler/restore-choice.ts';
import type { KvResidency } from '../../../proto/domain/kv-residency.ts';

const shape = {
  ...{ layers: 2, queryHeadsPerGroup: 2, headDim: 8, kvBytesPerElement: 2 },
  slidingWindows: [0, 0],
};
/** Rank 0 keeps three blocks, rank 1 all eight and five of rank 0's. */
const residency: KvResidency = {
  kvBlocks: 8,
  kvParkedBlocks: 0,
  kvBlockTokens: 64,
  deviceBlocks: [3, 8],
  loans: [{ owner: 0, holder: 1, blocks: { begin: 3, end: 8 } }],
};
const headGroups = [3, 1];
const decode = (startPosition: number, blockTable: number[]) => ({
  requestId: 'a',
  slot: 0,
  cachedTokens: 0,
  sampling: null,
  bannedTokens: [],
  takeSampled: true,
  tokens: [] as number[],
  startPosition,
  blockTable,
});

describe('what travels about KV on loan', () => {
  const bytes = (sequences: Parameters<typeof lentBytesOf>[0]) =>
    lentBytesOf(sequences, residency, headGroups, shape);

  it('is nothing while a step touches no block on loan', () => {
    expect(bytes([decode(130, [0, 1, 2])])).toBeNull();
    expect(lentBytesOf([decode(0, [7])], { ...residency, loans: [] }, [4], shape)).toBeNull();
  });

  it('is a row of queries, the parts of each lent block, and keys and values that are written there', () => {
    const queries = 2 * 8 * 4;
    const part = 2 * (8 + 2) * 4;
    // Of four blocks two are lent; the token at position 200 is written to the last one.
    const fresh = 2 * 8 * 4;
    const each = 2 * 3 * (queries + 2 * part + fresh);
    expect(bytes([decode(200, [0, 4, 1, 5]), decode(10, [2])])).toEqual([each, each]);
    // Written to a block at home.
    const home = 2 * 3 * (queries + part);
    expect(bytes([decode(80, [4, 0])])).toEqual([home, home]);
  });

  it('is whole blocks where the parts of a long prefill would be more', () => {
    const prefill = { ...decode(64, [4, 0]), takeSampled: false, tokens: Array(64).fill(1) };
    const whole = 6 * 2 * 64 * 8 * 2;
    // Whoever gets the block needs no queries there.
    expect(bytes([prefill])).toEqual([whole, whole]);
    // Written there, too, by the first 64 of 128 tokens.
    const both = { ...prefill, startPosition: 0, tokens: Array(128).fill(1) };
    expect(bytes([both])?.[0]).toBe(whole + 6 * 64 * 2 * 8 * 4);
    // A prefix that many share goes once.
    expect(bytes(Array(26).fill(decode(100, [4, 0])))).toEqual([whole, whole]);
    expect(bytes(Array(25).fill(decode(100, [4, 0])))?.[0]).toBe(6 * 25 * (2 * 8 * 4 + 80));
  });

  it('is nothing of blocks that no row sees, or that begin after it', () => {
    const each = 6 * (2 * 8 * 4 + 2 * (8 + 2) * 4);
    // The last of its blocks is there already, but has no position yet.
    expect(bytes([decode(80, [4, 0, 5])])?.[0]).toBe(each);
    const windowed = (slidingWindows: number[]) =>
      lentBytesOf([decode(130, [4, 0, 1])], residency, headGroups, { ...shape, slidingWindows });
    expect(windowed([67, 67])).toBeNull();
    expect(windowed([68, 67])?.[0]).toBe(each / 2);
    expect(windowed([68, 0])?.[0]).toBe(each);
    expect(windowed([])?.[0]).toBe(each);
  });
});

describe('what travels about KV on loan between GPUs', () => {
  it('is in the type of the cache but for parts, and no block goes whole', () => {
    const gpu = { ...residency, kvBlockTokens: 256 };
    const bytes = (sequences: Parameters<typeof lentBytesOf>[0]) =>
      lentBytesOf(sequences, gpu, headGroups, shape)?.[0];
    const decoded = 2 * 8 * 2 + 2 * (8 + 2) * 4;
    expect(bytes([decode(300, [4, 0])])).toBe(6 * decoded);
    const prefill = { ...decode(256, [4, 0]), takeSampled: false, tokens: Array(200).fill(1) };
    expect(bytes([prefill])).toBe(6 * 200 * decoded);
  });

  it('is a part for each chunk that a row sees, whatever the size of blocks', () => {
    const prefill = { ...decode(0, [4]), takeSampled: false, tokens: Array(500).fill(1) };
    const rows = 500 * (2 * 8 * 2 + 2 * 8 * 2);
    const part = 2 * (8 + 2) * 4;
    // The first 256 of them do not see the second chunk.
    for (const [kvBlockTokens, blockTable] of [
      [256, [4, 5]],
      [512, [4]],
    ] as const) {
      const sent = lentBytesOf(
        [{ ...prefill, blockTable }],
        { ...residency, kvBlockTokens },
        headGroups,
        shape,
      );
      expect(sent?.[0]).toBe(6 * (rows + (500 + 244) * part));
    }
  });
});

describe('paths of KV', () => {
  const costs = {
    moveSeconds: (blocks: number) => ({ begun: 0.001, carried: blocks * 0.001 }),
    recallSeconds: (blocks: number) => ({ begun: 0.01, carried: blocks * 0.01 }),
    stepSeconds: () => 0.1,
    exchangeSeconds: (rank: number) => ({ begun: 0.004, carried: [0.026, 0.006][rank] ?? 0 }),
  };
  const observer = () => new KvPathObserver({ costs, residency, headGroups, model: shape });
  const load = {
    decodeTokens: 1,
    decodeContextTokens: 1,
    prefillTokens: 0,
    prefillContextTokens: 0,
  };

  function step(changes: Partial<KvPathStep['moves']>, plan: Partial<KvPathStep['plan']> = {}) {
    const moves = { seconds: 0, replayedTokens: 0, computedTokens: 10 };
    const nothing = { replayedTokens: 0, reloadedTokens: 0, recalledBlocks: 0, recalledTokens: 0 };
    const empty = { step: 1, moves: [], sequences: [], ...nothing };
    return {
      load,
      totalSeconds: 0.25,
      moves: { ...moves, rankRemoteSeconds: [0, 0], ...changes },
      plan: { ...empty, ...plan },
    };
  }

  it('are told as predicted and measured, each by itself', () => {
    const kv = observer();
    kv.step(step({}));
    expect(kv.tracker.predictions()).toEqual([]);
    const moves = [
      { from: 1, to: 9 },
      { from: 2, to: 8 },
    ];
    kv.step(step({ seconds: 0.004 }, { moves }));
    kv.step(step({ replayedTokens: 5 }));
    // How much of this one was waiting for the move nobody knows.
    kv.step(step({ seconds: 0.004, replayedTokens: 5 }, { moves }));
    kv.step(step({ rankRemoteSeconds: [0.05, 0.02] }, { sequences: [decode(0, [7])] }));
    kv.step(step({ seconds: 0.03 }, { moves, recalledBlocks: 2 }));
    const [reload, replay, remote, recall] = kv.tracker.predictions();
    expect(reload).toMatchObject({
      path: 'reload',
      predictedSeconds: 0.004,
      ratio: expect.closeTo(2, 9),
    });
    expect(replay).toMatchObject({
      path: 'replay',
      predictedSeconds: 0.05,
      ratio: expect.closeTo(2.5, 9),
    });
    // The rank that waits least waits for nobody; it is held against its own link.
    expect(remote).toMatchObject({
      path: 'remote',
      measuredSeconds: 0.02,
      ratio: expect.closeTo(2, 9),
    });
    expect(recall).toMatchObject({
      path: 'recall',
      predictedSeconds: 0.02,
      ratio: expect.closeTo(1.5, 9),
    });
  });

  it('learn what they take in service, and the choice follows', () => {
    const tracker = new KvPathTracker();
    const restore = {
      moveSecondsPerBlock: 0.4,
      recallSecondsPerBlock: 0.5,
      exchangeSecondsPerStep: 0.1,
      exchangeSecondsPerBlock: 0,
      replaySecondsPerToken: 0.1,
      replaySecondsPerContextToken: 0,
    };
    const choice = cheapestRestore(restore, (path) => tracker.ratioOf(path));
    expect([choice.parks(9, 0), choice.parks(7, 0)]).toEqual([true, false]);
    for (let count = 0; count < 15; count += 1)
      tracker.observe('reload', { begun: 0, carried: 0.4 }, 0.8);
    // Fifteen steps are no reason yet.
    expect(choice.parks(9, 0)).toBe(true);
    for (let count = 0; count < 5; count += 1)
      tracker.observe('reload', { begun: 0, carried: 0.4 }, 0.8);
    expect([choice.parks(17, 0), choice.parks(15, 0)]).toEqual([true, false]);
    const [reload] = tracker.predictions();
    expect(reload).toMatchObject({ steps: 20, errorMedianPercent: 50 });
    expect(reload?.refinedErrorMedianPercent).toBeCloseTo(0, 6);
    // A recall goes by what was probed, as the exchanges that it spares.
    expect([choice.recalls(2, 10), choice.recalls(2, 9)]).toEqual([true, false]);
    const carrying = cheapestRestore({ ...restore, exchangeSecondsPerBlock: 0.1 });
    expect([carrying.recalls(2, 4), carrying.recalls(2, 3)]).toEqual([true, false]);
  });

  it('are told by sums of steps that take a millisecond where one is too short to be foretold', () => {
    const tracker = new KvPathTracker();
    const error = () => tracker.predictions()[0]?.refinedErrorMedianPercent ?? -1;
    // Beginning takes half of what it was predicted to, each step by chance a quarter more or less.
    const observe = (count: number) => {
      for (let step = 0; step < count; step += 1) {
        const chance = step % 2 === 0 ? 0.75 : 1.25;
        const carried = 2e-5 * (1 + (step % 3));
        tracker.observe('remote', { begun: 2e-4, carried }, chance * (1e-4 + carried));
      }
    };
    observe(7);
    // Less than that: it is what there is. The first step has nothing learnt to be held against.
    expect([error(), tracker.predictions()[0]?.errorMedianPercent]).toEqual([
      expect.closeTo(6.9, 1),
      expect.closeTo(71.4, 1),
    ]);
    observe(400);
    expect(error()).toBeGreaterThan(0);
    expect(error()).toBeLessThan(12);
    expect(tracker.predictions()[0]).toMatchObject({ steps: 407 });
  });

  it('that are given up are tried again now and then, or they would never be found cheaper', () => {
    const choice = cheapestRestore({
      moveSecondsPerBlock: 1,
      recallSecondsPerBlock: 1,
      exchangeSecondsPerStep: 0,
      exchangeSecondsPerBlock: 0,
      replaySecondsPerToken: 0.1,
      replaySecondsPerContextToken: 0,
    });
    const parked = Array.from({ length: 64 }, () => choice.parks(4, 0));
    expect(parked.filter(Boolean)).toHaveLength(2);
  });

  it('learn nothing from a step that was not predicted or took no time', () => {
    const tracker = new KvPathTracker();
    for (const [predicted, measured] of [
      [0, 1],
      [1, 0],
      [Number.NaN, 1],
      [1, Number.POSITIVE_INFINITY],
    ] as const) {
      tracker.observe('remote', { begun: 0, carried: predicted }, measured);
    }
    expect(tracker.predictions()).toEqual([]);
  });
});
