import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  Scheduler,
  type SchedulerLimits,
  type StepPlan,
} from '../../controller/scheduler/scheduler.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import type { GenerationRequest } from '../../proto/domain/generation.ts';
import { requestOf } from '../support/generation-requests.ts';
import { hashAnswer, hashVocabRows, KvHashRank } from '../support/kv-hash-rank.ts';

type Action =
  | { type: 'add'; prompt: number[]; maxTokens: number; stop: number[] }
  | { type: 'cancel'; which: number }
  | { type: 'schedule' }
  | { type: 'run'; rank: number }
  | { type: 'answer' };

const ranks = 2;
const token = fc.nat({ max: hashVocabRows - 1 });

const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      type: fc.constant('add' as const),
      prompt: fc.array(token, { minLength: 1, maxLength: 6 }),
      maxTokens: fc.integer({ min: 1, max: 10 }),
      stop: fc.array(token, { maxLength: 2 }),
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
    kvBlocks: fc.integer({ min: 2, max: 6 }),
    kvBlockTokens: fc.integer({ min: 1, max: 4 }),
    stepTokensMax: fc.integer({ min: 1, max: 12 }),
    sequences: fc.integer({ min: 1, max: 5 }),
    contextTokensMax: fc.integer({ min: 4, max: 20 }),
    waitingMax: fc.integer({ min: 1, max: 6 }),
    stepsInFlightMax: fc.integer({ min: 1, max: 3 }),
  })
  .map(({ sequences, stepsInFlightMax, ...rest }) => ({
    stepsInFlightMax,
    limits: { ...rest, sequencesMax: Math.min(sequences, rest.stepTokensMax) },
  }));

interface Live {
  request: GenerationRequest;
  tokens: number[];
  /** Tokens asked of the ranks so far: all of them asked means that nothing is left to plan. */
  sampled: number;
}

interface Flight {
  plan: StepPlan;
  results: ({ slot: number; tokenId: number }[] | null)[];
}

/** A controller and two ranks that run each step when chance says so, each in order. Checks what must hold at every turn. */
class World {
  readonly scheduler: Scheduler;
  readonly #limits: SchedulerLimits;
  readonly #ranks: KvHashRank[];
  /** In the order of arrival. */
  readonly #live = new Map<string, Live>();
  #flights: Flight[] = [];
  #arrivals = 0;

  constructor(limits: SchedulerLimits) {
    this.#limits = limits;
    this.scheduler = new Scheduler(limits);
    this.#ranks = Array.from({ length: ranks }, () => new KvHashRank(limits.kvBlockTokens));
  }

  get liveCount(): number {
    return this.#live.size;
  }

  get inFlight(): number {
    return this.#flights.length;
  }

  add(prompt: number[], maxTokens: number, stop: number[]): void {
    this.#arrivals += 1;
    const request = requestOf(`request-${this.#arrivals}`, prompt, maxTokens, stop);
    const { waiting } = this.scheduler.counts;
    const tooLong = prompt.length + maxTokens > this.scheduler.contextTokensMax;
    try {
      this.scheduler.add(request);
    } catch (error) {
      if (!(error instanceof HelsError)) throw error;
      if (tooLong) expect(error.code).toBe('context-too-long');
      else expect([error.code, waiting >= this.#limits.waitingMax]).toEqual(['overloaded', true]);
      return;
    }
    expect(tooLong || waiting >= this.#limits.waitingMax).toBe(false);
    this.#live.set(request.requestId, { request, tokens: [], sampled: 0 });
  }

  cancel(which: number): void {
    const id = [...this.#live.keys()][which % Math.max(1, this.#live.size)];
    if (id === undefined) return;
    this.scheduler.cancel(id);
    this.#live.delete(id);
  }

  schedule(): boolean {
    const plan = this.scheduler.schedule();
    this.scheduler.checkIntegrity();
    if (plan === null) return false;
    this.#checkBudget(plan);
    this.#checkNobodyElseHolds(plan);
    this.#checkOldestProgresses(plan);
    for (const { requestId, sampling } of plan.sequences) {
      const live = this.#live.get(requestId);
      if (live === undefined) throw new Error(`${requestId} is planned after its end`);
      if (sampling !== null) live.sampled += 1;
      expect(live.sampled).toBeLessThanOrEqual(live.request.maxTokens);
    }
    this.#flights.push({ plan, results: Array.from({ length: ranks }, () => null) });
    return true;
  }

  /** The rank runs the oldest step it has not run. */
  run(rank: number): void {
    const flight = this.#flights.find(({ results }) => results[rank] === null);
    if (flight !== undefined) flight.results[rank] = this.#ranks[rank]?.run(flight.plan) ?? null;
  }

  /** The oldest step, after the ranks that have not run it yet do so. */
  answer(): void {
    const flight = this.#flights.shift();
    if (flight === undefined) return;
    flight.results = flight.results.map(
      (result, rank) => result ?? this.#ranks[rank]?.run(flight.plan) ?? null,
    );
    const [first, second] = flight.results;
    expect(second).toEqual(first);
    for (const event of this.scheduler.apply(flight.plan.step, first ?? [])) {
      const live = this.#live.get(event.requestId);
      if (live === undefined) throw new Error(`${event.requestId} gets an event after its end`);
      if (event.type === 'token') live.tokens.push(event.sampled.tokenId);
      else this.#checkAnswer(live, event.reason);
    }
    this.scheduler.checkIntegrity();
  }

  #checkAnswer({ request, tokens }: Live, reason: 'stop' | 'length'): void {
    const { promptTokenIds, maxTokens, stopTokenIds, requestId } = request;
    expect(tokens).toEqual(hashAnswer(promptTokenIds, maxTokens, stopTokenIds));
    expect(reason).toBe(stopTokenIds.includes(tokens.at(-1) ?? -1) ? 'stop' : 'length');
    this.#live.delete(requestId);
  }

  #checkBudget({ sequences }: StepPlan): void {
    const { stepTokensMax, sequencesMax, kvBlockTokens } = this.#limits;
    const counts = sequences.map((s) => (s.takeSampled ? 1 : s.tokens.length));
    expect(Math.min(...counts)).toBeGreaterThan(0);
    expect(counts.reduce((sum, count) => sum + count, 0)).toBeLessThanOrEqual(stepTokensMax);
    expect(sequences.length).toBeLessThanOrEqual(sequencesMax);
    expect(new Set(sequences.map(({ slot }) => slot)).size).toBe(sequences.length);
    sequences.forEach(({ startPosition, blockTable }, index) => {
      const positions = startPosition + (counts[index] ?? 0);
      expect(blockTable).toHaveLength(Math.ceil(positions / kvBlockTokens));
    });
  }

  /** A block or slot named by a step under way belongs to that sequence until the step is answered. */
  #checkNobodyElseHolds(plan: StepPlan): void {
    const blockOwner = new Map<number, string>();
    const slotOwner = new Map<number, string>();
    const claim = (owners: Map<number, string>, id: number, owner: string) => {
      expect(owners.get(id) ?? owner).toBe(owner);
      owners.set(id, owner);
    };
    for (const { sequences } of [...this.#flights.map((flight) => flight.plan), plan]) {
      for (const { requestId, blockTable, slot } of sequences) {
        for (const block of blockTable) claim(blockOwner, block, requestId);
        claim(slotOwner, slot, requestId);
      }
    }
  }

  /** No step goes by without the oldest request, unless all its tokens are on their way. */
  #checkOldestProgresses({ sequences }: StepPlan): void {
    const [oldest] = this.#live.values();
    if (oldest === undefined || oldest.sampled === oldest.request.maxTokens) return;
    expect(sequences.map(({ requestId }) => requestId)).toContain(oldest.request.requestId);
  }
}

/** Lets everything end; a scheduler that has requests and nothing to do would never end. */
function finish(world: World, stepsInFlightMax: number): void {
  for (let turn = 0; world.liveCount > 0 || world.inFlight > 0; turn += 1) {
    if (turn > 5_000) throw new Error(`${world.liveCount} requests do not end`);
    while (world.inFlight < stepsInFlightMax && world.schedule());
    if (world.inFlight === 0) throw new Error(`${world.liveCount} requests wait for nothing`);
    world.answer();
  }
}

function play(world: World, actions: readonly Action[], stepsInFlightMax: number): void {
  for (const next of actions) {
    if (next.type === 'add') world.add(next.prompt, next.maxTokens, next.stop);
    if (next.type === 'cancel') world.cancel(next.which);
    if (next.type === 'schedule' && world.inFlight < stepsInFlightMax) world.schedule();
    if (next.type === 'run') world.run(next.rank);
    if (next.type === 'answer') world.answer();
    world.scheduler.checkIntegrity();
  }
}

function checkEmpty(world: World, limits: SchedulerLimits): void {
  const { running, waiting, kvBlocksUsed } = world.scheduler.counts;
  expect({ running, waiting, kvBlocksUsed }).toEqual({ running: 0, waiting: 0, kvBlocksUsed: 0 });
  // The largest request there can be still fits.
  const { contextTokensMax } = world.scheduler;
  world.add([1], contextTokensMax - 1, []);
  expect(world.liveCount).toBe(1);
  finish(world, 1);
  expect(limits.kvBlocks * limits.kvBlockTokens).toBeGreaterThanOrEqual(contextTokensMax);
}

describe('scheduler', () => {
  it('gives every request its own tokens, keeps its books, and lets nobody wait for ever', () => {
    let preempted = 0;
    fc.assert(
      fc.property(
        setting,
        fc.array(action, { maxLength: 150, size: 'max' }),
        ({ limits, stepsInFlightMax }, actions) => {
          const world = new World(limits);
          play(world, actions, stepsInFlightMax);
          finish(world, stepsInFlightMax);
          preempted += world.scheduler.counts.preempted;
          checkEmpty(world, limits);
        },
      ),
      { numRuns: 300 },
    );
    // Otherwise the pools were too large to test it.
    expect(preempted).toBeGreaterThan(20);
  });

  it('shows lost KV in the text: the check above can fail', () => {
    const rank = new KvHashRank(2);
    const other = new KvHashRank(2);
    const prompt = [3, 1, 4, 1];
    const whole = { slot: 0, takeSampled: false, startPosition: 0, sampling: {} };
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
