import { describe, expect, it } from 'vitest';
import { KvResidence } from '../../../controller/scheduler/kv-residence.ts';
import { LowestFirst } from '../../../controller/scheduler/lowest-first.ts';
import { cheapestRestore, movesAlways } from '../../../controller/scheduler/restore-choice.ts';
import { Sequence } from '../../../controller/scheduler/sequence.ts';
import { StepDraft } from '../../../controller/scheduler/step-draft.ts';
import { requestOf } from '../../support/generation-requests.ts';

const blockTokens = 4;

/** `blocks` runnable ones, `parked` parked ones. */
function residenceOf(blocks: number, parked: number) {
  return new KvResidence({ kvBlocks: blocks, kvBlockTokens: blockTokens }, parked, movesAlways);
}

/** A sequence that has computed so many positions in blocks of its own, and rests. */
function resting(kv: KvResidence, computed: number, room = computed): Sequence {
  const sequence = new Sequence(requestOf('a', 40, 8), 1);
  sequence.blocks = kv.pool.allocate(Math.ceil(room / blockTokens));
  sequence.computed = computed;
  sequence.computedMost = computed;
  kv.rest(sequence);
  return sequence;
}

const draftOf = (step: number, moves = 8) => new StepDraft(step, 8, moves);

describe('a sequence that rests', () => {
  it('keeps what it has computed and gives back room for the rest', () => {
    const kv = residenceOf(8, 0);
    const sequence = resting(kv, 10, 24);
    expect(sequence).toMatchObject({ blocks: [0, 1, 2], computed: 10 });
    expect(kv.pool.freeCount).toBe(5);
    kv.checkIntegrity([sequence]);
  });

  it('loses its end first, and the block is free when the step that moved it is answered', () => {
    const kv = residenceOf(4, 4);
    const sequence = resting(kv, 10);
    const draft = draftOf(1);
    expect([kv.reclaim(sequence, draft), kv.reclaim(sequence, draft)]).toEqual([
      'coming',
      'coming',
    ]);
    expect(draft.moves).toEqual([
      { from: 2, to: 4 },
      { from: 1, to: 5 },
    ]);
    expect(sequence).toMatchObject({ blocks: [0], parked: [5, 4], parkedFrom: 1, computed: 10 });
    expect([kv.pool.freeCount, kv.coming]).toEqual([1, 2]);
    kv.checkIntegrity([sequence]);
    kv.release(1);
    expect([kv.pool.freeCount, kv.coming]).toEqual([3, 0]);
  });

  it('drops what has no parked address, and has to compute from there on', () => {
    const kv = residenceOf(4, 0);
    const sequence = resting(kv, 10);
    expect(kv.reclaim(sequence, draftOf(1))).toBe('freed');
    expect(sequence).toMatchObject({ blocks: [0, 1], computed: 8 });
    expect(kv.counts.droppedTokens).toBe(2);
  });

  it('drops what is cheaper to compute again, and tells so while it could be parked', () => {
    const pays = (tokens: number) => tokens > 2;
    const dear = { ...movesAlways, pays, parks: pays };
    const kv = new KvResidence({ kvBlocks: 4, kvBlockTokens: blockTokens }, 1, dear);
    const sequence = resting(kv, 10);
    expect(kv.reclaim(sequence, draftOf(1))).toBe('freed');
    expect(kv.counts).toMatchObject({ droppedTokens: 2, droppedByChoiceTokens: 2 });
    expect(kv.reclaim(sequence, draftOf(1))).toBe('coming');
    expect(kv.counts.droppedByChoiceTokens).toBe(2);
  });

  it('gives up its last parked block for one nearer to its beginning when all are used', () => {
    const kv = residenceOf(4, 1);
    const sequence = resting(kv, 12);
    const first = draftOf(1);
    expect(kv.reclaim(sequence, first)).toBe('coming');
    // The parked address is still named by a step under way.
    expect(kv.reclaim(sequence, draftOf(2))).toBe('later');
    kv.release(1);
    const second = draftOf(2);
    expect(kv.reclaim(sequence, second)).toBe('coming');
    expect(second.moves).toEqual([{ from: 1, to: 4 }]);
    expect(sequence).toMatchObject({ blocks: [0], parked: [4], computed: 8 });
    kv.checkIntegrity([sequence]);
  });

  it('is parked ahead of need where that pays and there is an address, and else left alone', () => {
    const pays = (tokens: number) => tokens > 2;
    const dear = { ...movesAlways, pays, parks: pays };
    const kv = new KvResidence({ kvBlocks: 4, kvBlockTokens: blockTokens }, 1, dear);
    const [partial, whole] = [resting(kv, 6), resting(kv, 8)];
    expect(kv.parkAhead(partial, draftOf(1))).toBe(false);
    expect(kv.parkAhead(whole, draftOf(1, 0))).toBe(false);
    const draft = draftOf(1);
    expect(kv.parkAhead(whole, draft)).toBe(true);
    expect(draft.moves).toEqual([{ from: 3, to: 4 }]);
    kv.release(1);
    // All addresses are used: its own parked end is not given up ahead.
    expect(kv.parkAhead(whole, draftOf(2))).toBe(false);
    expect(kv.counts).toMatchObject({ parkedBlocks: 1, droppedTokens: 0 });
    expect([partial.computed, whole.computed]).toEqual([6, 8]);
    kv.checkIntegrity([partial, whole]);
  });

  it('gives no block that another one reads, and none beyond the moves of a step', () => {
    const kv = residenceOf(4, 4);
    const sequence = resting(kv, 8);
    const [block = -1] = sequence.blocks.slice(1);
    kv.pool.remember(block, { key: 'k', parent: null, salt: '', tokenIds: [1] });
    kv.pool.share([block]);
    expect(kv.reclaimable(sequence)).toBe(0);
    expect(kv.reclaim(sequence, draftOf(1))).toBe('none');
    kv.pool.free([block]);
    expect(kv.reclaimable(sequence)).toBe(2);
    expect(kv.reclaim(sequence, draftOf(1, 0))).toBe('later');
  });
});

describe('the way back', () => {
  it('takes as many steps as it has moves, and the parked addresses are free when they are answered', () => {
    const kv = residenceOf(4, 3);
    const sequence = resting(kv, 12);
    const out = draftOf(1);
    for (let block = 0; block < 3; block += 1) kv.reclaim(sequence, out);
    kv.release(1);
    sequence.slot = 0;
    sequence.blocks = kv.pool.allocate(3);
    const [first, second] = [draftOf(2, 2), draftOf(3, 2)];
    kv.bringBack(sequence, first);
    expect(sequence.returning).toBe(true);
    kv.bringBack(sequence, second);
    expect(sequence.returning).toBe(false);
    expect([...first.moves, ...second.moves]).toEqual([
      { from: 6, to: 0 },
      { from: 5, to: 1 },
      { from: 4, to: 2 },
    ]);
    expect(kv.counts).toMatchObject({ kvParkedBlocksUsed: 3, reloadedTokens: 12 });
    kv.release(2);
    expect(kv.counts.kvParkedBlocksUsed).toBe(1);
    kv.release(3);
    expect(kv.counts.kvParkedBlocksUsed).toBe(0);
    kv.checkIntegrity([sequence]);
  });

  it('can be broken off: what is back stays, the rest is where it was', () => {
    const kv = residenceOf(4, 3);
    const sequence = resting(kv, 12);
    const out = draftOf(1);
    for (let block = 0; block < 3; block += 1) kv.reclaim(sequence, out);
    kv.release(1);
    sequence.slot = 0;
    sequence.blocks = kv.pool.allocate(4);
    kv.bringBack(sequence, draftOf(2, 1));
    kv.release(2);
    sequence.slot = null;
    kv.rest(sequence);
    expect(sequence).toMatchObject({ blocks: [0], parked: [5, 4], parkedFrom: 1, computed: 12 });
    kv.checkIntegrity([sequence]);
  });
});

describe('the choice', () => {
  it('is the shorter of moving there and back and computing again', () => {
    const choice = cheapestRestore({
      moveSecondsPerBlock: 1,
      recallSecondsPerBlock: 1,
      exchangeSecondsPerStep: 1,
      exchangeSecondsPerBlock: 0,
      replaySecondsPerToken: 0.1,
      replaySecondsPerContextToken: 0.01,
    });
    expect(choice.parks(4, 0)).toBe(false);
    // 0.4 + 0.01 * (4 * 40 + 10) = 2.1 seconds
    expect(choice.parks(4, 40)).toBe(true);
  });
});

describe('lowest first', () => {
  it('gives the lowest of what is there', () => {
    const numbers = new LowestFirst(2, 8);
    const taken = [numbers.take(), numbers.take(), numbers.take(), numbers.take()];
    expect(taken).toEqual([2, 3, 4, 5]);
    for (const back of [5, 3, 9, 4]) numbers.add(back);
    expect(Array.from({ length: 6 }, () => numbers.take())).toEqual([3, 4, 5, 6, 7, 9]);
    expect(numbers.take()).toBeUndefined();
  });
});
