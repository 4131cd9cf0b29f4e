/**
 * Which tokens go into which step. Pure: no clock, no chance, no I/O; the step loop asks for a plan, sends it and brings the results.
 *
 * Continuous batching under a token budget: decode first, then prompts in chunks. Requests are admitted in their order (turn-order.ts: of
 * arrival, within their priority) while a slot and KV for their whole prompt are free, and a block for each running sequence beside it. Of
 * what decodes leave of a step, the first prompt in the order is sure of half; the other half goes to the shortest prompts first, and what
 * they leave to the first again. So a short prompt need not wait for a long one's chunks, and everybody ends: in every step the first
 * request gets a decode token or half of the prefill budget, whatever comes after it.
 *
 * KV comes in blocks; when they run out the last running sequence in the order gives way and waits at the front of the queue. It keeps its
 * KV until that room is needed, then loses it from its end (kv-residence.ts): what was parked is moved back when there is room again, what
 * was dropped is prefilled again with the tokens it already has. Of those that wait, the last loses first, before another running one gives
 * way. The first is never the victim while another runs. One that arrives and comes before some that run has them give way, where it finds
 * no slot or room beside them and would with theirs.
 *
 * Plans may be made before the results of the last one are back: the ranks then take "the token just sampled". Blocks and slots are reused
 * only after every rank has answered the last step that names them; a full block can be read by others from the step after the one that
 * fills it.
 */
import { HelsError } from '../../proto/domain/errors.ts';
import type { GenerationRequest } from '../../proto/domain/generation.ts';
import { bringToRest, checkKept, type HandOver, type HeldKv, type NextEpoch } from './hand-over.ts';
import { KvResidence } from './kv-residence.ts';
import { PrefixCache } from './prefix-cache.ts';
import type { PrefixHash } from './prefix-table.ts';
import { takeChunks } from './prompt-chunks.ts';
import { recallLent } from './recall.ts';
import { refuseRequest } from './refuse-request.ts';
import { type Newcomer, RoomMaker, type Start } from './room-maker.ts';
import { checkedParking, type SchedulerLimits } from './scheduler-limits.ts';
import { Sequence } from './sequence.ts';
import { StepDraft } from './step-draft.ts';
import { plannedSequence, type StepPlan } from './step-plan.ts';
import { compareTurns, insertInOrder, isBefore } from './turn-order.ts';
import { type Turn, WorkLedger } from './work-ledger.ts';

export type { SchedulerLimits } from './scheduler-limits.ts';
export type { StepPlan } from './step-plan.ts';

export interface SampledResult {
  slot: number;
  tokenId: number;
}

export type SchedulerEvent<Sampled extends SampledResult> =
  | { type: 'token'; requestId: string; sampled: Sampled }
  | { type: 'finished'; requestId: string; reason: 'stop' | 'length' };

export class Scheduler {
  readonly #limits: SchedulerLimits;
  readonly #kv: KvResidence;
  readonly #room: RoomMaker;
  readonly #movesPerStepMax: number;
  readonly #prefix: PrefixCache;
  readonly #freeSlots: number[];
  readonly #sequences = new Map<string, Sequence>();
  /** In their order, as those that run. */
  #waiting: Sequence[] = [];
  #running: Sequence[] = [];
  #submitted = new Map<number, { sequence: Sequence; slot: number }[]>();
  #step = 0;
  #answered = 0;
  #arrivals: number;
  readonly #ledger = new WorkLedger();

  /** Without a hash there is no prefix cache. `handedOver`: by the scheduler before, of another epoch mostly. */
  constructor(
    limits: SchedulerLimits,
    prefixHash: PrefixHash | null = null,
    { sequences, arrivals, steps = 0 }: HandOver = { sequences: [], arrivals: 0 },
  ) {
    this.#limits = limits;
    const { blocks, movesPerStepMax, choice } = checkedParking(limits);
    this.#movesPerStepMax = movesPerStepMax;
    this.#kv = new KvResidence(limits, blocks, choice, sequences);
    this.#room = new RoomMaker(this.#kv, limits, movesPerStepMax);
    this.#prefix = new PrefixCache(this.#kv.pool, limits.kvBlockTokens, prefixHash);
    this.#freeSlots = Array.from(
      { length: limits.sequencesMax },
      (_, index) => limits.sequencesMax - 1 - index,
    );
    this.#arrivals = arrivals;
    this.#step = steps;
    this.#answered = steps;
    this.#waiting = [...sequences];
    for (const sequence of sequences) {
      this.#sequences.set(sequence.request.requestId, sequence);
      this.#prefix.remember(sequence);
    }
  }

  get counts() {
    const { pool } = this.#kv;
    return {
      running: this.#running.length,
      waiting: this.#waiting.length,
      kvBlocksUsed: pool.usedCount,
      kvBlocksTotal: pool.total,
      /** Of those not used: they hold what may be wanted again. */
      kvBlocksCached: pool.cachedCount,
      ...this.#ledger.counts,
      ...this.#kv.counts,
      ...this.#prefix.counts,
    };
  }

  /** Addresses in use now: runnable ones and parked ones. */
  get addresses(): { runnable: Iterable<number>; parked: Iterable<number> } {
    return { runnable: this.#kv.pool.used, parked: this.#kv.parkedAddresses };
  }

  /** Tokens of sequences that wait whose KV was given up and is not computed again yet. */
  get droppedTokens(): number {
    return this.#waiting.reduce(
      (sum, { computed, computedMost }) => sum + computedMost - computed,
      0,
    );
  }

  /** Positions that one sequence can have: the model's and the pool's limit. */
  get contextTokensMax(): number {
    return Math.min(this.#limits.contextTokensMax, this.#kvTokens);
  }

  get #kvTokens(): number {
    return this.#limits.kvBlocks * this.#limits.kvBlockTokens;
  }

  /** Of each request here: the most positions that it can come to, and the KV that it holds now. */
  get requests(): readonly ({ readonly lengthMax: number } & HeldKv)[] {
    return [...this.#sequences.values()].toSorted(compareTurns);
  }

  /** Who gave way and who runs again since the last call, in order. */
  takeTurns(): Turn[] {
    return this.#ledger.takeTurns();
  }

  /**
   * Throws context-too-long for a request that can never fit, request-invalid for an empty one, overloaded when too many wait.
   * `computedBefore`: another scheduler had let it in and computed so many positions; it is let in again however many wait.
   */
  add(request: GenerationRequest, computedBefore: number | null = null): void {
    const { contextTokensMax } = this.#limits;
    refuseRequest(request, { contextTokensMax, kvTokens: this.#kvTokens });
    if (computedBefore === null && this.#waiting.length >= this.#limits.waitingMax) {
      throw new HelsError(
        'overloaded',
        `${this.#waiting.length} requests are waiting already, the most allowed; try again later`,
      );
    }
    if (this.#sequences.has(request.requestId)) {
      throw new HelsError('internal', `request '${request.requestId}' is here already`);
    }
    this.#arrivals += 1;
    const sequence = new Sequence(request, this.#arrivals);
    sequence.computedMost = computedBefore ?? 0;
    // With tokens of its answer: they are of the prompt now.
    sequence.promptCounted = sequence.computedMost > 0;
    this.#sequences.set(request.requestId, sequence);
    insertInOrder(this.#waiting, sequence);
  }

  /** The request's tokens no longer matter; what it holds comes back once the ranks are done with it. Unknown ids are ignored. */
  cancel(requestId: string): void {
    const sequence = this.#sequences.get(requestId);
    if (sequence !== undefined) this.#end(sequence);
  }

  /** Everything here goes to the next scheduler; this one is over. KV stays only between steps: throws while one is under way. */
  handOver(next: NextEpoch): HandOver {
    checkKept(next, this.#limits, this.#submitted.size);
    const sequences = bringToRest([...this.#sequences.values()], next, this.#limits);
    return { sequences, arrivals: this.#arrivals };
  }

  /** The next step, or null when there is nothing to do until a result or a request comes. */
  schedule(): StepPlan | null {
    const draft = new StepDraft(this.#step + 1, this.#limits.stepTokensMax, this.#movesPerStepMax);
    // What is or may have to be preempted must not be named again, or its blocks would never come free.
    const restsFrom = this.#makeWay(draft);
    const lacksRoom = this.#takeDecodes(draft, restsFrom);
    if (lacksRoom === null) {
      const last = this.#running.at(-1);
      if (last?.returning) this.#kv.bringBack(last, draft);
      while (this.#admitNext(draft) === 'now');
    }
    this.#takePrefills(draft, lacksRoom);
    this.#room.parkAhead(this.#running, this.#waiting, draft);
    // Who waits takes room at home next.
    if (this.#waiting.length === 0) recallLent(this.#kv, this.#running, draft, this.#limits);
    if (draft.sequences.length === 0 && draft.moves.length === 0) return null;
    return this.#submit(draft);
  }

  /** Every rank has answered `step`, the oldest one under way. What sequences that have ended would have got is dropped. */
  apply<Sampled extends SampledResult>(
    step: number,
    sampled: readonly Sampled[],
  ): SchedulerEvent<Sampled>[] {
    const submitted = this.#submitted.get(step);
    if (step !== this.#answered + 1 || submitted === undefined) {
      throw new Error(`step ${step} answered after step ${this.#answered}`);
    }
    this.#submitted.delete(step);
    this.#answered = step;
    const bySlot = new Map(sampled.map((result) => [result.slot, result]));
    const events: SchedulerEvent<Sampled>[] = [];
    for (const { sequence, slot } of submitted) {
      if (sequence.ended) continue;
      const result = bySlot.get(slot);
      if (result === undefined) throw new Error(`step ${step} has no token for slot ${slot}`);
      events.push(...this.#accept(sequence, result));
    }
    this.#freeSlots.push(...this.#kv.release(step));
    return events;
  }

  /** Throws unless every block is accounted for, what is written has one owner, and every slot has one sequence. */
  checkIntegrity(): void {
    const held = this.#kv.checkIntegrity([...this.#running, ...this.#waiting]);
    const slots = [...this.#running.map(({ slot }) => slot), ...held, ...this.#freeSlots];
    if (
      new Set(slots).size !== this.#limits.sequencesMax ||
      slots.length !== this.#limits.sequencesMax
    ) {
      throw new Error(`${slots.length} slots of ${this.#limits.sequencesMax} are accounted for`);
    }
  }

  #blocksFor(positions: number): number {
    return Math.ceil(positions / this.#limits.kvBlockTokens);
  }

  /**
   * Starts those that wait and come before some that run: these give way where they must. The first of those that are to, once no step
   * under way names them: it and who comes after it are left out of this step. Null: there is none.
   */
  #makeWay(draft: StepDraft): Sequence | null {
    for (;;) {
      const next = this.#waiting[0];
      const last = this.#running.at(-1);
      if (next === undefined || last === undefined || !isBefore(next, last)) return null;
      const start = this.#admitNext(draft);
      if (start === 'coming') return null;
      if (start === 'now') continue;
      const others = { running: this.#running, waiting: this.#waiting.slice(1) };
      const least = this.#freeSlots.length > 0 ? 0 : 1;
      const victims = this.#room.givingWay(this.#newcomer(next), others, least);
      if (victims.some((victim) => !this.#isAtRest(victim))) return victims[0] ?? null;
      if (victims.length === 0) return null;
      for (const victim of victims.toReversed()) this.#preempt(victim);
    }
  }

  /**
   * One token of each sequence that decodes, in their order. The first that finds no room is returned, or that is to rest: those after it
   * are then left out of this step, so that the last comes to rest and can be preempted. Null: there was room for all.
   */
  #takeDecodes(draft: StepDraft, restsFrom: Sequence | null): Sequence | null {
    for (const sequence of [...this.#running]) {
      if (sequence === restsFrom || sequence.slot === null) return sequence;
      if (sequence.pending !== 1 || sequence.complete || sequence.returning) continue;
      if (!this.#makeRoom(sequence, draft)) return sequence;
      draft.take(sequence, 1, []);
    }
    return null;
  }

  /** Chunks of the prompts before `end`. */
  #takePrefills(draft: StepDraft, end: Sequence | null): void {
    const prefilling = this.#running.filter(
      (sequence) =>
        (end === null || isBefore(sequence, end)) &&
        !sequence.complete &&
        !sequence.returning &&
        draft.countOf(sequence) === 0,
    );
    takeChunks(prefilling, this.#prefix, draft);
  }

  /** A block for the next position, taking it from newer sequences when none is free. False: not in this step. */
  #makeRoom(sequence: Sequence, draft: StepDraft): boolean {
    const { pool } = this.#kv;
    const lacking = this.#blocksFor(sequence.length) - sequence.blocks.length;
    if (lacking <= 0) return true;
    while (!pool.canAllocate(lacking)) {
      if (this.#room.isComing(lacking)) return false;
      const reclaimed = this.#room.reclaim(this.#waiting, draft);
      if (reclaimed === 'later') return false;
      if (reclaimed !== 'none') continue;
      const victim = this.#running.at(-1);
      const { reserves } = this.#room;
      if ((reserves || victim === sequence) && this.#room.forget(this.#waiting)) continue;
      if (reserves) return false;
      if (victim === undefined || !this.#isAtRest(victim)) return false;
      this.#preempt(victim);
      if (victim === sequence) return false;
    }
    sequence.blocks.push(...pool.allocate(lacking));
    return true;
  }

  /** No step under way names it, so its blocks can be reused at once; and no token of it is on its way. */
  #isAtRest(sequence: Sequence): boolean {
    return sequence.samplesInFlight === 0 && sequence.lastStep <= this.#answered;
  }

  #preempt(victim: Sequence): void {
    // One that was only admitted gives up nothing.
    if (victim.computed > 0) this.#ledger.gaveWay(victim);
    this.#running.pop();
    if (victim.slot !== null) this.#freeSlots.push(victim.slot);
    victim.slot = null;
    this.#kv.rest(victim);
    if (this.#limits.replaysWhole) this.#kv.drop(victim, 0);
    insertInOrder(this.#waiting, victim);
  }

  #newcomer(next: Sequence): Newcomer {
    const shared = this.#prefix.matches(next);
    return {
      next,
      shared,
      fresh: this.#blocksFor(next.length) - next.blocks.length - shared.length,
    };
  }

  #admitNext(draft: StepDraft): Start {
    const next = this.#waiting[0];
    const last = this.#running.at(-1);
    // One at a time comes back, and nobody who comes after it starts before it runs.
    if (next === undefined || (last?.returning && isBefore(last, next))) return 'no';
    const slot = this.#freeSlots.at(-1);
    if (slot === undefined) return this.#kv.slotIsComing ? 'coming' : 'no';
    const { pool } = this.#kv;
    const newcomer = this.#newcomer(next);
    const others = { running: this.#running, waiting: this.#waiting.slice(1) };
    const start = this.#room.makeStart(newcomer, others, draft);
    if (start !== 'now') return start;
    const { fresh, shared } = newcomer;
    this.#waiting.shift();
    this.#freeSlots.pop();
    next.slot = slot;
    pool.share(shared);
    const allocated = pool.allocate(fresh);
    next.blocks.push(...allocated.splice(0, next.parked.length), ...shared, ...allocated);
    this.#prefix.adopted(next, shared.length);
    insertInOrder(this.#running, next);
    this.#kv.bringBack(next, draft);
    return 'now';
  }

  #submit(draft: StepDraft): StepPlan {
    this.#step = draft.step;
    const sampling: { sequence: Sequence; slot: number }[] = [];
    let replayedTokens = 0;
    const sequences = draft.sequences.map(({ sequence, count }) => {
      const planned = plannedSequence(sequence, count, this.#limits.kvBlockTokens);
      replayedTokens += this.#ledger.computes(sequence, count, draft.step);
      this.#prefix.remember(sequence);
      if (planned.sampling !== null) {
        sequence.samplesInFlight += 1;
        sampling.push({ sequence, slot: planned.slot });
      }
      return planned;
    });
    this.#submitted.set(draft.step, sampling);
    const { step, moves } = draft;
    return { step, moves, sequences, replayedTokens, ...this.#kv.takeReturned() };
  }

  #accept<Sampled extends SampledResult>(
    sequence: Sequence,
    sampled: Sampled,
  ): SchedulerEvent<Sampled>[] {
    const { requestId, stopTokenIds, promptTokenIds, maxTokens } = sequence.request;
    sequence.samplesInFlight -= 1;
    sequence.tokens.push(sampled.tokenId);
    this.#prefix.count(sequence);
    this.#prefix.remember(sequence);
    const token = { type: 'token' as const, requestId, sampled };
    const stopped = stopTokenIds.includes(sampled.tokenId);
    if (!stopped && sequence.tokens.length - promptTokenIds.length < maxTokens) return [token];
    this.#end(sequence);
    return [token, { type: 'finished', requestId, reason: stopped ? 'stop' : 'length' }];
  }

  #end(sequence: Sequence): void {
    sequence.ended = true;
    this.#sequences.delete(sequence.request.requestId);
    const others = (list: readonly Sequence[]) => list.filter((other) => other !== sequence);
    if (sequence.slot === null) this.#waiting = others(this.#waiting);
    else this.#running = others(this.#running);
    this.#kv.holdAll(sequence);
    this.#freeSlots.push(...this.#kv.release(this.#answered));
  }
}
