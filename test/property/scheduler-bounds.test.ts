/** Nobody starves: every request ends within steps that its own length and the requests before it decide, whatever comes after it. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  Scheduler,
  type SchedulerLimits,
  type StepPlan,
} from '../../controller/scheduler/scheduler.ts';
import { requestOf } from '../support/generation-requests.ts';
import { prefixHashes } from '../support/scheduler-world.ts';

interface Arrival {
  /** Steps planned before it comes. */
  atStep: number;
  prompt: number;
  maxTokens: number;
  priority: number;
}

const setting = fc
  .record({
    kvBlockTokens: fc.integer({ min: 1, max: 4 }),
    contextBlocks: fc.integer({ min: 8, max: 12 }),
    roomPercent: fc.integer({ min: 100, max: 400 }),
    stepTokensMax: fc.integer({ min: 1, max: 16 }),
    sequences: fc.integer({ min: 1, max: 6 }),
    stepsInFlight: fc.integer({ min: 1, max: 2 }),
    cached: fc.boolean(),
    parkedBlocks: fc.integer({ min: 0, max: 12 }),
    movesPerStepMax: fc.integer({ min: 1, max: 4 }),
  })
  .map(({ kvBlockTokens, contextBlocks, roomPercent, sequences, ...rest }) => ({
    ...rest,
    limits: {
      kvBlocks: Math.floor((contextBlocks * roomPercent) / 100),
      kvBlockTokens,
      stepTokensMax: rest.stepTokensMax,
      sequencesMax: Math.min(sequences, rest.stepTokensMax),
      contextTokensMax: contextBlocks * kvBlockTokens,
      waitingMax: 1_000,
      parking: { blocks: rest.parkedBlocks, movesPerStepMax: rest.movesPerStepMax },
    } satisfies SchedulerLimits,
  }));

/** Short and long ones, in bursts and all the time: most come after the first, to push it away. */
const arrivals = fc.array(
  fc.record({
    atStep: fc.nat({ max: 60 }),
    prompt: fc.oneof(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 20, max: 100 })),
    maxTokens: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 9, max: 30 })),
    priority: fc.constantFrom(0, 0, 0, 0, -1, 1),
  }),
  { minLength: 1, maxLength: 60, size: 'max' },
);

/** Steps that a request may need from the moment when it is the oldest: half of what decodes leave, then one token a step. */
function stepsAsOldest({ prompt, maxTokens }: Arrival, limits: SchedulerLimits): number {
  const prefillTokens = Math.ceil((limits.stepTokensMax - limits.sequencesMax + 1) / 2);
  // Preempted before, it may have to prefill what it had generated too.
  return Math.ceil((prompt + maxTokens) / prefillTokens) + maxTokens;
}

/**
 * Steps that only move KV while a request is the oldest: its own way back; others that make room for it to start; and for each block that
 * it still asks for, one that moves another's away and one that parks ahead.
 */
function stepsOfMoves({ maxTokens }: Arrival, limits: SchedulerLimits): number {
  const { contextTokensMax, kvBlockTokens, parking } = limits;
  if (!parking?.blocks) return 0;
  const blocks = Math.ceil(contextTokensMax / kvBlockTokens);
  const moved = Math.ceil(blocks / (parking.movesPerStepMax ?? blocks));
  return 2 * moved + 2 * (Math.ceil(maxTokens / kvBlockTokens) + 1);
}

/** Plays the arrivals; when each request, by arrival, came and ended, in steps planned until then. */
class Play {
  readonly lives: { arrival: Arrival; came: number; ended: number }[];
  readonly scheduler: Scheduler;
  readonly #stepsInFlight: number;
  readonly #flights: StepPlan[] = [];
  /** Tokens asked of the ranks so far, by request; who is to get one in each step. */
  readonly #asked = new Map<string, number>();
  readonly #decoding = new Set<string>();
  readonly #kvBlocks: number;
  #steps = 0;
  #next = 0;
  #alive = 0;

  constructor(
    limits: SchedulerLimits,
    arrivals: readonly Arrival[],
    stepsInFlight: number,
    cached: boolean,
  ) {
    this.scheduler = new Scheduler(limits, cached ? prefixHashes.good : null);
    this.#kvBlocks = limits.kvBlocks;
    this.lives = arrivals.map((arrival) => ({ arrival, came: 0, ended: Number.NaN }));
    this.#stepsInFlight = stepsInFlight;
  }

  run(): this {
    while (this.#next < this.lives.length || this.#alive > 0) {
      this.#arrive();
      const plan = this.#flights.length < this.#stepsInFlight ? this.scheduler.schedule() : null;
      if (plan !== null) {
        this.#steps += 1;
        this.#checkNobodyIsHeldUp(plan);
        this.#flights.push(plan);
      } else if (this.#flights.length > 0) {
        this.#answer();
      } else {
        if (this.#alive > 0) throw new Error(`${this.#alive} requests wait for nothing`);
        // Nothing runs: time passes until the next arrival.
        this.#steps = Math.max(this.#steps, this.lives[this.#next]?.arrival.atStep ?? 0);
      }
      this.scheduler.checkIntegrity();
    }
    return this;
  }

  /** While KV comes back everybody who decodes gets a token: who returns is newer than they are. */
  #checkNobodyIsHeldUp({ moves, sequences }: StepPlan): void {
    for (const { type, requestId } of this.scheduler.takeTurns()) {
      if (type === 'gave-way') this.#decoding.delete(requestId);
    }
    const named = new Set(sequences.map(({ requestId }) => requestId));
    const heldUp = [...this.#decoding].filter((requestId) => !named.has(requestId));
    if (moves.some(({ to }) => to < this.#kvBlocks) && heldUp.length > 0) {
      throw new Error(`${heldUp.join()} get nothing while another one comes back`);
    }
    for (const { requestId, sampling } of sequences) {
      const asked = (this.#asked.get(requestId) ?? 0) + Number(sampling !== null);
      this.#asked.set(requestId, asked);
      const isDecoding = sampling !== null && asked < this.#maxTokensOf(requestId);
      if (isDecoding) this.#decoding.add(requestId);
      else this.#decoding.delete(requestId);
    }
  }

  #maxTokensOf(requestId: string): number {
    return this.lives[Number(requestId)]?.arrival.maxTokens ?? 0;
  }

  #arrive(): void {
    for (;;) {
      const life = this.lives[this.#next];
      if (life === undefined || life.arrival.atStep > this.#steps) return;
      const { prompt, maxTokens, priority } = life.arrival;
      this.scheduler.add({ ...requestOf(String(this.#next), prompt, maxTokens), priority });
      life.came = this.#steps;
      this.#next += 1;
      this.#alive += 1;
    }
  }

  #answer(): void {
    const plan = this.#flights.shift();
    const sampled = (plan?.sequences ?? [])
      .filter(({ sampling }) => sampling !== null)
      .map(({ slot }) => ({ slot, tokenId: 63 }));
    for (const event of this.scheduler.apply(plan?.step ?? 0, sampled)) {
      const life = this.lives[Number(event.requestId)];
      if (event.type !== 'finished' || life === undefined) continue;
      life.ended = this.#steps;
      this.#alive -= 1;
    }
  }
}

describe('no starvation', () => {
  it('ends every request within a bound that arrivals after it in the order do not change', () => {
    let preempted = 0;
    fc.assert(
      fc.property(setting, arrivals, ({ limits, stepsInFlight, cached }, given) => {
        const planned = given
          .map((arrival) => ({
            ...arrival,
            prompt: Math.min(arrival.prompt, limits.contextTokensMax - arrival.maxTokens),
          }))
          .filter(({ prompt }) => prompt > 0)
          .toSorted((left, right) => left.atStep - right.atStep);
        const { lives, scheduler } = new Play(limits, planned, stepsInFlight, cached).run();
        preempted += scheduler.counts.preempted;
        // No two arrivals are as far apart as one level of priority.
        const goesBefore = (one: number, other: number) => {
          const [left, right] = [lives[one]?.arrival, lives[other]?.arrival];
          return (left?.priority ?? 0) - (right?.priority ?? 0) || one - other;
        };
        lives.forEach((life, index) => {
          const before = lives.filter(
            ({ came, ended }, other) =>
              goesBefore(other, index) <= 0 && ended >= life.came && came <= life.ended,
          );
          // A step is planned while the token that ends a request is on its way, and while those come to rest that give way to it: as
          // many per request as may be under way.
          const bound = before.reduce(
            (sum, { arrival }) =>
              sum +
              stepsAsOldest(arrival, limits) +
              stepsOfMoves(arrival, limits) +
              2 * stepsInFlight,
            0,
          );
          expect(life.ended - life.came).toBeLessThanOrEqual(bound);
        });
      }),
      { numRuns: 300 },
    );
    // Otherwise the pools were too large to push anybody out.
    expect(preempted).toBeGreaterThan(20);
  }, 60_000);

  it('gives older ones a token in each step in which a long one comes back block by block', () => {
    const lengths = { atStep: 0, prompt: 4, maxTokens: 140, priority: 0 };
    let reloaded = 0;
    for (let kvBlocks = 45; kvBlocks < 105; kvBlocks += 1) {
      const limits = { kvBlocks, kvBlockTokens: 4, stepTokensMax: 512, sequencesMax: 8 };
      const parking = { blocks: 400, movesPerStepMax: 1 };
      const older = [lengths, lengths, { ...lengths, prompt: 60, maxTokens: 20 }];
      const arrivals = [...older, { ...lengths, prompt: 100, maxTokens: 20 }];
      const all = { ...limits, contextTokensMax: 160, waitingMax: 8, parking };
      // It checks that itself.
      reloaded += new Play(all, arrivals, 2, false).run().scheduler.counts.reloadedBlocks;
    }
    expect(reloaded).toBeGreaterThan(100);
  });
});

describe('a stream of long prompts', () => {
  /** Steps from its arrival to its first token, of a short prompt that comes while one long prompt after another does. */
  function shortWaits(longs: number): number {
    const limits = {
      kvBlocks: 4096,
      kvBlockTokens: 16,
      stepTokensMax: 512,
      sequencesMax: 64,
      contextTokensMax: 16_384,
      waitingMax: 64,
    };
    const scheduler = new Scheduler(limits);
    for (let index = 0; index < longs; index += 1) {
      scheduler.add(requestOf(`long-${index}`, 8_192, 8));
    }
    const first = scheduler.schedule();
    scheduler.apply(first?.step ?? 0, []);
    scheduler.add(requestOf('short', 100, 8));
    for (let steps = 1; ; steps += 1) {
      const plan = scheduler.schedule();
      const sampling = plan?.sequences.filter((sequence) => sequence.sampling !== null) ?? [];
      if (sampling.some(({ requestId }) => requestId === 'short')) return steps;
      const sampled = sampling.map(({ slot }) => ({ slot, tokenId: 1 }));
      scheduler.apply(plan?.step ?? 0, sampled);
    }
  }

  it.each([1, 2, 6])('of %i: a short prompt has its first token in the very next step', (longs) => {
    expect(shortWaits(longs)).toBe(1);
  });
});
