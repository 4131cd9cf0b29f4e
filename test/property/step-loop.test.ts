import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { sha256PrefixHash } from '../../controller/engine/prefix-hash.ts';
import { StepLoop } from '../../controller/engine/step-loop.ts';
import { Survivors } from '../../controller/engine/survivors.ts';
import { nothingKept } from '../../controller/scheduler/hand-over.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import type { GenerationEvent, GenerationRequest } from '../../proto/domain/generation.ts';
import { FakeRank } from '../support/fake-ranks.ts';
import { requestOf } from '../support/generation-requests.ts';
import { hashAnswerTo } from '../support/kv-hash-rank.ts';

type Action =
  | { type: 'submit'; prompt: number; maxTokens: number; stops: number; minTokens: number }
  | { type: 'abort' | 'leave'; which: number }
  | { type: 'answer'; rank: number }
  | { type: 'break' | 'garble' | 'report'; rank: number }
  | { type: 'wait'; ms: number }
  | { type: 'drain' | 'succeed' | 'refuse' }
  | { type: 'replan'; kvBlocks: number; keeps: boolean };

const rank = fc.nat({ max: 1 });
const which = fc.nat({ max: 20 });
const of = <Name extends Action['type']>(type: Name) => fc.constant(type);

const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      type: of('submit'),
      prompt: fc.integer({ min: 1, max: 12 }),
      maxTokens: fc.integer({ min: 1, max: 8 }),
      stops: fc.nat({ max: 20 }),
      minTokens: fc.nat({ max: 8 }),
    }),
  },
  { weight: 60, arbitrary: fc.record({ type: of('answer'), rank }) },
  { weight: 4, arbitrary: fc.record({ type: of('abort'), which }) },
  { weight: 4, arbitrary: fc.record({ type: of('leave'), which }) },
  { weight: 1, arbitrary: fc.record({ type: of('break'), rank }) },
  { weight: 1, arbitrary: fc.record({ type: of('garble'), rank }) },
  { weight: 1, arbitrary: fc.record({ type: of('report'), rank }) },
  { weight: 2, arbitrary: fc.record({ type: of('wait'), ms: fc.integer({ min: 1, max: 6_000 }) }) },
  { weight: 1, arbitrary: fc.record({ type: of('drain') }) },
  { weight: 4, arbitrary: fc.record({ type: of('succeed') }) },
  { weight: 4, arbitrary: fc.record({ type: of('refuse') }) },
  {
    weight: 3,
    arbitrary: fc.record({
      type: of('replan'),
      kvBlocks: fc.integer({ min: 6, max: 9 }),
      keeps: fc.boolean(),
    }),
  },
);

interface Stream {
  request: GenerationRequest;
  events: GenerationEvent[];
  abort: AbortController;
  /** Left in mid-stream by its reader, who then sees no end. */
  left: boolean;
  iterator: AsyncIterableIterator<GenerationEvent>;
}

const limitsWith = (kvBlocks: number) => ({
  kvBlocks,
  parking: { blocks: 3, movesPerStepMax: 2 },
  kvBlockTokens: 4,
  stepTokensMax: 8,
  sequencesMax: 3,
  contextTokensMax: 24,
  waitingMax: 6,
});

class World {
  ranks = [new FakeRank('worker-0', 4), new FakeRank('worker-1', 4)];
  /** Of the plan that is served. */
  #kvBlocks = 6;
  #epoch = 1;
  #replanning = false;
  #stranded = 0;
  replans = 0;
  resumed = 0;
  refusals = 0;
  #refused = 0;
  readonly streams: Stream[] = [];
  /** Ends of epochs, and of these the ones that no request outlives. */
  failures = 0;
  #final = 0;
  readonly #clock = { nowMs: () => 0, unixMs: () => 0 };
  readonly #survivors = new Survivors(this.#clock, (requests) => {
    this.resumed += requests;
  });
  loop = this.#open();
  #serves = true;

  #open(): StepLoop {
    return new StepLoop({
      term: 1,
      epoch: this.#epoch,
      limits: limitsWith(this.#kvBlocks),
      prefixHash: sha256PrefixHash,
      ranks: this.ranks.map(({ open }) => open),
      predictedStepSeconds: 0,
      clock: this.#clock,
      observer: {
        step: () => undefined,
        started: () => undefined,
        resumed: () => undefined,
        countsEnd: () => undefined,
      },
      onFailed: ({ code }) => {
        this.failures += 1;
        this.#serves = false;
        if (code === 'internal') this.#final += 1;
      },
    });
  }

  /** Other ranks take over, which hold nothing, once the epoch has ended. */
  #succeed(): void {
    if (this.#serves) return;
    this.#serves = true;
    this.ranks = [new FakeRank('worker-0', 4), new FakeRank('worker-1', 4)];
    this.#kvBlocks = 9;
    this.#epoch += 1;
    this.loop = this.#open();
    this.#survivors.goOn(this.loop, 'the same');
  }

  /** Tokens below `stops` end an answer of more than `minTokens`. */
  submit({ prompt, maxTokens, stops, minTokens }: Extract<Action, { type: 'submit' }>): void {
    const stop = Array.from({ length: stops }, (_, token) => token);
    const id = `request-${this.streams.length}`;
    const request = requestOf(id, prompt, maxTokens, stop, minTokens);
    const abort = new AbortController();
    try {
      const keeper = this.#survivors.keeperOf('m', 'the same');
      const iterator = this.loop.submit(request, abort.signal, keeper);
      const stream = { request, events: [], abort, left: false, iterator };
      this.streams.push(stream);
      void this.#read(stream);
    } catch (error) {
      expect(error).toBeInstanceOf(HelsError);
    }
  }

  async #read(stream: Stream): Promise<void> {
    for await (const event of stream.iterator) {
      stream.events.push(event);
      if (stream.left) return;
    }
  }

  async apply(next: Action): Promise<void> {
    if (next.type === 'submit') this.submit(next);
    if (next.type === 'abort') this.streams[next.which]?.abort.abort();
    if (next.type === 'leave') this.#leave(this.streams[next.which]);
    if (next.type === 'wait') await vi.advanceTimersByTimeAsync(next.ms);
    if (next.type === 'replan') void this.#replan(next.kvBlocks, next.keeps);
    if (next.type === 'succeed') this.#succeed();
    if (next.type === 'refuse') this.#refuse();
    if (next.type === 'drain') void this.loop.drain(1_000);
    if ('rank' in next) this.#ofRank(next.type, next.rank);
    await vi.advanceTimersByTimeAsync(0);
    this.loop.scheduler.checkIntegrity();
  }

  /** At the next step boundary; when the new ranks fail before their first answer, others take over. */
  async #replan(kvBlocks: number, keeps: boolean): Promise<void> {
    if (this.#replanning) return;
    this.#replanning = true;
    const { loop } = this;
    try {
      await loop.pause();
      // Ranks that failed hold nothing.
      const kept = keeps && this.#stranded === 0 ? Math.min(kvBlocks, this.#kvBlocks) : 0;
      await this.#rebase(loop, kvBlocks, kept).catch(() => this.#rebase(loop, kvBlocks, 0));
      this.replans += 1;
    } catch (error) {
      expect(error).toBeInstanceOf(HelsError);
      // Both the new ranks and those after them failed: nobody is left to go on over, and the end of the test tells the requests.
      if (loop === this.loop && this.#serves) this.#stranded = 1;
    }
    this.#replanning = false;
  }

  async #rebase(loop: StepLoop, kvBlocks: number, keptBlocks: number): Promise<void> {
    // The epoch has ended meanwhile, and another may have begun.
    if (loop !== this.loop || !this.#serves) throw new HelsError('worker-lost', 'too late');
    this.ranks = this.ranks.map((rank) => rank.successor(keptBlocks));
    this.#kvBlocks = kvBlocks;
    this.#epoch += 1;
    const ranks = this.ranks.map(({ open }) => open);
    const epoch = { epoch: this.#epoch, limits: limitsWith(kvBlocks), ranks };
    const kept = { ...nothingKept, blocks: keptBlocks };
    await loop.rebase({ ...epoch, predictedStepSeconds: 0 }, kept);
  }

  /** All ranks come to the same step, and refuse it. */
  #refuse(): void {
    const newest = Math.max(...this.ranks.map(({ next }) => Number(next?.step ?? 0)));
    for (const rank of this.ranks) {
      while (rank.next !== undefined && Number(rank.next.step) < newest) rank.answer();
    }
    const [first, ...others] = this.ranks.map(({ next }) => next);
    const slot = first?.sequences?.[0]?.slot;
    if (slot === undefined || others.some((other) => other?.step !== first?.step)) return;
    this.refusals += 1;
    for (const rank of this.ranks) rank.refuse(slot);
  }

  #leave(stream: Stream | undefined): void {
    if (stream !== undefined) stream.left = true;
  }

  #ofRank(type: Action['type'], index: number): void {
    const rank = this.ranks[index];
    if (type === 'break') rank?.break(new HelsError('worker-lost', 'the stream broke'));
    if (rank === undefined || rank.waiting === 0) return;
    if (type === 'answer') rank.answer();
    if (type === 'report') rank.answer({ error: { code: 'peer-lost', message: 'gone' } });
    if (type === 'garble') rank.answer({ sampled: [] });
  }

  /** Answers what is asked until nothing is, then ends the epoch. */
  async finish(): Promise<void> {
    // A rank that was left by another waits for that one's reason.
    await vi.advanceTimersByTimeAsync(1_000);
    this.#succeed();
    for (let turn = 0; turn < 2_000 && this.ranks.some(({ waiting }) => waiting > 0); turn += 1) {
      for (const index of [0, 1]) this.#ofRank('answer', index);
      await vi.advanceTimersByTimeAsync(0);
    }
    const end = new HelsError('draining', 'the end of the test');
    this.#survivors.close(end);
    this.loop.close(end);
    await vi.advanceTimersByTimeAsync(1_000);
  }

  check({ request, events, abort, left }: Stream): void {
    const tokens = events.flatMap((event) => (event.type === 'token' ? [event.tokenId] : []));
    const whole = hashAnswerTo(request);
    expect(tokens).toEqual(whole.slice(0, tokens.length));
    const ends = events.filter(({ type }) => type !== 'token');
    if (left && ends.length === 0) return;
    expect(ends).toHaveLength(1);
    expect(events.at(-1)).toBe(ends[0]);
    if (ends[0]?.type === 'finished') expect(tokens).toEqual(whole);
    const error = ends[0]?.type === 'failed' ? ends[0].error : null;
    const code = error?.code ?? null;
    if (error?.message.startsWith('the ranks refuse')) {
      this.#refused += 1;
      expect(this.#refused).toBeLessThanOrEqual(this.refusals);
      return;
    }
    if (code === 'cancelled') expect(abort.signal.aborted).toBe(true);
    // Without a cancel everybody gets everything, whatever epochs end, unless ranks disagree, or one is there for three ends in a row.
    // Stranded requests may find ranks again, and those may fail.
    const faults = this.#final + this.#stranded + Math.max(0, this.failures - 2);
    if (code !== null && code !== 'cancelled') expect(faults).toBeGreaterThan(0);
  }
}

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

describe('step loop', () => {
  it('ends every request exactly once, with its own tokens, whatever the ranks and the clients do', async () => {
    let failed = 0;
    let finished = 0;
    let replans = 0;
    let resumed = 0;
    let refusals = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(action, { maxLength: 120, size: 'max' }), async (actions) => {
        const world = new World();
        for (const next of actions) await world.apply(next);
        await world.finish();
        failed += world.failures;
        resumed += world.resumed;
        replans += world.replans;
        refusals += world.refusals;
        for (const stream of world.streams) {
          world.check(stream);
          if (stream.events.at(-1)?.type === 'finished') finished += 1;
        }
        expect(vi.getTimerCount()).toBe(0);
      }),
      { numRuns: 150 },
    );
    // Otherwise neither side of it was tested.
    expect(failed).toBeGreaterThan(10);
    expect(replans).toBeGreaterThan(50);
    expect(refusals).toBeGreaterThan(20);
    expect(resumed).toBeGreaterThan(50);
    expect(finished).toBeGreaterThan(50);
  });
});
