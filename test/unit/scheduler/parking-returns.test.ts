/** Ways back that take several steps, while older sequences grow. */
import { describe, expect, it } from 'vitest';
import { Scheduler, type StepPlan } from '../../../controller/scheduler/scheduler.ts';
import { requestOf } from '../../support/generation-requests.ts';

/** From one return to the next time it gives way: blocks that came back, tokens that it got. */
interface Stay {
  readonly blocks: number;
  tokens: number;
  ended: boolean;
}

/** One move a step, and a newest sequence of some 25 blocks that gives way to older ones. */
class Play {
  readonly stays: Stay[] = [];
  /** The most steps in a row in which an older one that had not given way got nothing. */
  waitsMax = 0;
  readonly #scheduler: Scheduler;
  readonly #kvBlocks: number;
  readonly #lastNamed = new Map<string, number>();
  #blocks = 0;

  constructor(kvBlocks: number, maxTokens: number) {
    const limits = { kvBlocks, kvBlockTokens: 4, stepTokensMax: 512, sequencesMax: 8 };
    const parking = { blocks: 400, movesPerStepMax: 1 };
    this.#kvBlocks = kvBlocks;
    this.#scheduler = new Scheduler({ ...limits, contextTokensMax: 160, waitingMax: 8, parking });
    for (const id of ['growing 1', 'growing 2']) this.#scheduler.add(requestOf(id, 4, 140));
    this.#scheduler.add(requestOf('long 1', 60, maxTokens));
    this.#scheduler.add(requestOf('long 2', 60, maxTokens + 1));
    this.#scheduler.add(requestOf('newest', 100, 20));
  }

  run(): this {
    const flights: StepPlan[] = [];
    for (;;) {
      const plan = flights.length < 2 ? this.#scheduler.schedule() : null;
      this.#noteTurns();
      if (plan !== null) {
        this.#notePlan(plan);
        flights.push(plan);
        continue;
      }
      const answered = flights.shift();
      if (answered === undefined) return this;
      this.#answer(answered);
    }
  }

  #noteTurns(): void {
    for (const { type, requestId } of this.#scheduler.takeTurns()) {
      if (type === 'gave-way') this.#lastNamed.delete(requestId);
      if (requestId !== 'newest') continue;
      if (type === 'resumed') this.stays.push({ blocks: this.#blocks, tokens: 0, ended: false });
      this.#blocks = 0;
    }
  }

  #notePlan({ step, moves, sequences }: StepPlan): void {
    this.#blocks += moves.filter(({ to }) => to < this.#kvBlocks).length;
    for (const { requestId, sampling } of sequences) {
      if (sampling === null) continue;
      const stay = this.stays.at(-1);
      if (requestId === 'newest' && stay !== undefined) stay.tokens += 1;
      const waited = step - (this.#lastNamed.get(requestId) ?? step);
      if (requestId !== 'newest') this.waitsMax = Math.max(this.waitsMax, waited);
      this.#lastNamed.set(requestId, step);
    }
  }

  #answer({ step, sequences }: StepPlan): void {
    const sampled = sequences.filter(({ sampling }) => sampling !== null);
    const results = sampled.map(({ slot }) => ({ slot, tokenId: 5 }));
    for (const { type, requestId } of this.#scheduler.apply(step, results)) {
      const stay = this.stays.at(-1);
      if (type === 'finished' && requestId === 'newest' && stay !== undefined) stay.ended = true;
    }
  }
}

const plays = [20, 24, 28, 32, 40].flatMap((maxTokens) =>
  Array.from({ length: 60 }, (_, index) => new Play(45 + index, maxTokens).run()),
);

describe('a way back of many steps', () => {
  it('is begun only when it leaves room to run for as many', () => {
    const stays = plays.flatMap((played) => played.stays).filter(({ blocks }) => blocks > 4);
    expect(stays.length).toBeGreaterThan(50);
    const short = stays.filter(({ blocks, tokens, ended }) => !ended && tokens < blocks);
    expect(short).toEqual([]);
  });

  it('holds up no older sequence', () => {
    // The newest comes to rest, blocks of it are moved, and the steps that move them are answered.
    expect(Math.max(...plays.map(({ waitsMax }) => waitsMax))).toBeLessThanOrEqual(8);
  });
});
