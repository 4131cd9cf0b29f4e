/** A controller's scheduler and two ranks that hold hashes for KV: what must hold at every turn, whatever the requests and the ranks do. */
import { createHash } from 'node:crypto';
import { expect } from 'vitest';
import type { PrefixHash } from '../../controller/scheduler/prefix-table.ts';
import {
  Scheduler,
  type SchedulerLimits,
  type StepPlan,
} from '../../controller/scheduler/scheduler.ts';
import { arrivalsPerPriority } from '../../controller/scheduler/turn-order.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import type { GenerationRequest } from '../../proto/domain/generation.ts';
import { requestOf } from './generation-requests.ts';
import { hashAnswer, KvHashRank, movesOf } from './kv-hash-rank.ts';
import { KvHomes } from './kv-homes.ts';
import { checkMoves } from './move-rules.ts';
import { keptBetween } from './scheduler-driver.ts';

const ranks = 2;
/** Of those who play. */
const stepsInFlightMost = 3;

export type Action =
  | {
      type: 'add';
      prompt: number[];
      maxTokens: number;
      stop: number[];
      salt: string | null;
      priority: number;
    }
  | { type: 'cancel'; which: number }
  | { type: 'schedule' }
  | { type: 'run'; rank: number }
  | { type: 'answer' };

const digest: PrefixHash = (parent, salt, tokenIds) =>
  createHash('sha256')
    .update(JSON.stringify([parent, salt, tokenIds]))
    .digest('hex');

/** The last two collide all the time. */
export const prefixHashes = {
  none: null,
  good: digest,
  weak: (parent, salt, tokenIds) => digest(parent, salt, tokenIds).slice(0, 1),
  constant: () => 'same',
} satisfies Record<string, PrefixHash | null>;

/** As expect, without its price: these run for every block of every step. */
function check(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

interface Live {
  request: GenerationRequest;
  /** Lower ones go first. */
  place: number;
  tokens: number[];
  /** Tokens asked of the ranks so far: all of them asked means that nothing is left to plan. */
  sampled: number;
}

interface Flight {
  plan: StepPlan;
  results: ({ slot: number; tokenId: number }[] | null)[];
}

function homesOf(
  { kvBlocks, parking }: SchedulerLimits,
  deviceBlocks: readonly number[] | null,
): KvHomes | null {
  const parkedBlocks = parking?.blocks ?? 0;
  return deviceBlocks === null ? null : new KvHomes({ kvBlocks, parkedBlocks, deviceBlocks });
}

/** A controller and two ranks that run each step when chance says so, each in order. Checks what must hold at every turn. */
export class World {
  scheduler: Scheduler;
  readonly #prefixHash: PrefixHash | null;
  #limits: SchedulerLimits;
  #ranks: KvHashRank[];
  /** In the order of arrival. */
  readonly #live = new Map<string, Live>();
  #prioritised = false;
  /** Steps that went by without the first of all, since it was in one. */
  #stepsWithoutFirst = 0;
  #flights: Flight[] = [];
  #arrivals = 0;

  /** Tokens that the ranks were given to compute. */
  computedTokens = 0;
  /** Blocks that steps moved, away and back. */
  movedBlocks = 0;
  /** Blocks that steps named and one of the ranks has on loan. */
  remoteBlocks = 0;
  /** Parked blocks that went over to another epoch. */
  keptParked = 0;
  #homes: KvHomes | null;
  readonly #saltOf = new Map<string, string | null>();

  /** `deviceBlocks`: by rank, addresses below lie on its device; null: all ranks have room for all. */
  constructor(
    limits: SchedulerLimits,
    prefixHash: PrefixHash | null = null,
    deviceBlocks: readonly number[] | null = null,
  ) {
    this.#limits = limits;
    this.#prefixHash = prefixHash;
    this.scheduler = new Scheduler(limits, prefixHash);
    this.#homes = homesOf(limits, deviceBlocks);
    this.#ranks = Array.from(
      { length: ranks },
      (_, rank) => new KvHashRank(limits.kvBlockTokens, this.#homes, rank),
    );
  }

  get liveCount(): number {
    return this.#live.size;
  }

  get inFlight(): number {
    return this.#flights.length;
  }

  /** `salt` null: without the prefix cache. */
  add(
    prompt: number[],
    maxTokens: number,
    stop: number[],
    salt: string | null = '',
    priority = 0,
  ): void {
    this.#arrivals += 1;
    const request: GenerationRequest = {
      ...requestOf(`request-${this.#arrivals}`, prompt, maxTokens, stop),
      prefixCache: salt === null ? null : { salt },
      priority,
    };
    this.#prioritised ||= priority !== 0;
    this.#saltOf.set(request.requestId, salt);
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
    const place = this.#arrivals + arrivalsPerPriority * priority;
    this.#live.set(request.requestId, { request, place, tokens: [], sampled: 0 });
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
    checkMoves(
      plan,
      this.#flights.map((flight) => flight.plan),
      this.#limits,
    );
    this.movedBlocks += plan.moves.length;
    this.remoteBlocks += this.#remoteBlocksOf(plan);
    if (plan.sequences.length > 0) this.#checkBudget(plan);
    this.#checkNobodyElseHolds(plan);
    this.#checkFirstProgresses(plan);
    for (const { requestId, sampling, takeSampled, tokens } of plan.sequences) {
      this.computedTokens += takeSampled ? 1 : tokens.length;
      const live = this.#live.get(requestId);
      if (live === undefined) throw new Error(`${requestId} is planned after its end`);
      if (sampling !== null) live.sampled += 1;
      expect(live.sampled).toBeLessThanOrEqual(live.request.maxTokens);
    }
    this.#flights.push({ plan, results: Array.from({ length: ranks }, () => null) });
    return true;
  }

  #remoteBlocksOf({ sequences }: StepPlan): number {
    const homes = this.#homes;
    if (homes === null) return 0;
    const named = sequences.flatMap(({ blockTable }) => blockTable);
    const isRemote = (block: number) => homes.isRemote(0, block) || homes.isRemote(1, block);
    return named.filter(isRemote).length;
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

  /**
   * Another epoch with other limits. Its ranks hold the KV below `keptBlocks` and what is parked behind it, for which the steps under way
   * are answered first; with 0 none is kept and they are lost. `deviceBlocks`: of the next epoch. `heldBlocks`: what the ranks really hold.
   */
  rebase(
    limits: SchedulerLimits,
    keptBlocks: number,
    deviceBlocks: readonly number[] | null = null,
    heldBlocks = keptBlocks,
  ): void {
    if (keptBlocks > 0) while (this.#flights.length > 0) this.answer();
    this.#flights = [];
    const { kvBlockTokens } = limits;
    const homes = homesOf(limits, deviceBlocks);
    const kept = keptBetween(this.scheduler, keptBlocks, this.#limits, limits);
    this.keptParked += kept.parked.size;
    const moves = movesOf({ ...kept, blocks: heldBlocks });
    this.#ranks = this.#ranks.map((rank) => rank.successor(kvBlockTokens, moves, homes));
    this.#homes = homes;
    const handedOver = this.scheduler.handOver({ kvBlockTokens, kept });
    this.scheduler = new Scheduler(limits, this.#prefixHash, handedOver);
    this.#limits = limits;
    for (const live of this.#live.values()) live.sampled = live.tokens.length;
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
    const total = counts.reduce((sum, count) => sum + count, 0);
    check(Math.min(...counts) > 0, 'a sequence computes nothing');
    check(total <= stepTokensMax, `${total} tokens in a step of ${stepTokensMax}`);
    check(sequences.length <= sequencesMax, `${sequences.length} sequences in a step`);
    sequences.forEach(({ requestId, startPosition, blockTable, cachedTokens }, index) => {
      const positions = startPosition + (counts[index] ?? 0);
      check(blockTable.length === Math.ceil(positions / kvBlockTokens), 'a wrong block table');
      const prompt = this.#live.get(requestId)?.request.promptTokenIds.length ?? 0;
      check(cachedTokens < prompt, `${cachedTokens} of ${prompt} tokens came from the cache`);
    });
  }

  /**
   * A slot named by a step under way belongs to that sequence until the step is answered. So does a block, unless all who name it only
   * read it in that step, or the one who writes it did so in an earlier step; and only requests of one salt share at all.
   */
  #checkNobodyElseHolds(plan: StepPlan): void {
    const slotOwner = new Map<number, string>();
    const writtenBefore = new Map<number, string>();
    const readBefore = new Map<number, Set<string>>();
    for (const { sequences } of [...this.#flights.map((flight) => flight.plan), plan]) {
      const writes = new Map<number, string>();
      const reads = new Map<number, Set<string>>();
      for (const { requestId, blockTable, slot, startPosition } of sequences) {
        check((slotOwner.get(slot) ?? requestId) === requestId, `slot ${slot} has two owners`);
        slotOwner.set(slot, requestId);
        const firstWritten = Math.floor(startPosition / this.#limits.kvBlockTokens);
        blockTable.slice(firstWritten).forEach((block) => {
          check(!writes.has(block), `two sequences write to block ${block}`);
          writes.set(block, requestId);
        });
        for (const block of blockTable.slice(0, firstWritten)) {
          reads.set(block, (reads.get(block) ?? new Set()).add(requestId));
        }
      }
      for (const [block, writer] of writes) {
        check(!reads.has(block), `block ${block} is written and read in one step`);
        const others = [...(readBefore.get(block) ?? [])].filter((reader) => reader !== writer);
        check(others.length === 0, `${writer} writes to block ${block}, which ${others} read`);
        check((writtenBefore.get(block) ?? writer) === writer, `block ${block} has two writers`);
        writtenBefore.set(block, writer);
      }
      for (const [block, readers] of reads) {
        const writer = writtenBefore.get(block);
        this.#checkOneSalt([...readers, ...(writer === undefined ? [] : [writer])]);
        readBefore.set(block, new Set([...(readBefore.get(block) ?? []), ...readers]));
      }
    }
  }

  #checkOneSalt(requestIds: readonly string[]): void {
    const different = new Set(requestIds);
    if (different.size < 2) return;
    const salts = new Set([...different].map((id) => this.#saltOf.get(id)));
    check(salts.size === 1 && !salts.has(null), `${requestIds.join()} share a block`);
  }

  /**
   * No step that computes goes by without the first request, unless all its tokens are on their way. One that came with a priority has
   * others give way first: they come to rest, and their KV moves. Where nobody gives way it waits until they end.
   */
  #checkFirstProgresses({ sequences }: StepPlan): void {
    const [first] = [...this.#live.values()].toSorted((left, right) => left.place - right.place);
    if (sequences.length === 0 || first === undefined) return;
    const named = sequences.some(({ requestId }) => requestId === first.request.requestId);
    const isDone = first.sampled === first.request.maxTokens;
    this.#stepsWithoutFirst = named || isDone ? 0 : this.#stepsWithoutFirst + 1;
    const { kvBlocks, sequencesMax, parking, reserveTokens } = this.#limits;
    if (this.#prioritised && reserveTokens !== undefined) return;
    const stepsOfMoves = Math.ceil(kvBlocks / (parking?.movesPerStepMax ?? kvBlocks));
    const givingWay = (sequencesMax + 1) * stepsInFlightMost + 2 * stepsOfMoves;
    expect(this.#stepsWithoutFirst).toBeLessThanOrEqual(this.#prioritised ? givingWay : 0);
  }
}

/** Lets everything end; a scheduler that has requests and nothing to do would never end. */
export function finish(world: World, stepsInFlightMax: number): void {
  for (let turn = 0; world.liveCount > 0 || world.inFlight > 0; turn += 1) {
    if (turn > 5_000) throw new Error(`${world.liveCount} requests do not end`);
    while (world.inFlight < stepsInFlightMax && world.schedule());
    if (world.inFlight === 0) throw new Error(`${world.liveCount} requests wait for nothing`);
    world.answer();
  }
}

export function play(world: World, actions: readonly Action[], stepsInFlightMax: number): void {
  for (const next of actions) {
    if (next.type === 'add') {
      world.add(next.prompt, next.maxTokens, next.stop, next.salt, next.priority);
    }
    if (next.type === 'cancel') world.cancel(next.which);
    if (next.type === 'schedule' && world.inFlight < stepsInFlightMax) world.schedule();
    if (next.type === 'run') world.run(next.rank);
    if (next.type === 'answer') world.answer();
    world.scheduler.checkIntegrity();
  }
}

export function checkEmpty(world: World, limits: SchedulerLimits): void {
  const { running, waiting, kvBlocksUsed, kvParkedBlocksUsed } = world.scheduler.counts;
  expect([running, waiting, kvBlocksUsed, kvParkedBlocksUsed]).toEqual([0, 0, 0, 0]);
  // The largest request there can be still fits.
  const { contextTokensMax } = world.scheduler;
  world.add([1], contextTokensMax - 1, []);
  expect(world.liveCount).toBe(1);
  finish(world, 1);
  expect(limits.kvBlocks * limits.kvBlockTokens).toBeGreaterThanOrEqual(contextTokensMax);
}
