/**
 * Which tokens go into which step. Pure: no clock, no chance, no I/O; the step loop asks for a plan, sends it and brings the results.
 *
 * Continuous batching under a token budget: decode first, then prompts in chunks. Requests are admitted in the order of arrival while a
 * slot and KV for their whole prompt are free, and a block for each running sequence beside it. Of what decodes leave of a step, the oldest prompt is sure of half; the other half goes to
 * the shortest prompts first, and what they leave to the oldest again. So a short prompt need not wait for a long one's chunks, and
 * everybody ends: in every step the oldest request gets a decode token or half of the prefill budget, whatever arrives after it.
 *
 * KV comes in blocks; when they run out the newest running sequence gives way and waits at the front of the queue. It keeps its KV until
 * that room is needed, then loses it from its end (kv-residence.ts): what was parked is moved back when there is room again, what was
 * dropped is prefilled again with the tokens it already has. Of those that wait, the newest loses first, before another running one gives
 * way. The oldest is never the victim while another runs. Plans may be made before the results
 * of the last one are back: the ranks then take "the token just sampled". Blocks and slots are reused only after every rank has answered
 * the last step that names them; a full block can be read by others from the step after the one that fills it.
 */
import { HelsError } from '../../proto/domain/errors.ts';
import type { GenerationRequest } from '../../proto/domain/generation.ts';
import { bringToRest, checkKept, type HandOver, type NextEpoch } from './hand-over.ts';
import { KvResidence } from './kv-residence.ts';
import { PrefixCache } from './prefix-cache.ts';
import type { PrefixHash } from './prefix-table.ts';
import { refuseRequest } from './refuse-request.ts';
import { Reservation } from './reservation.ts';
import { RoomMaker } from './room-maker.ts';
import { checkedParking, type SchedulerLimits } from './scheduler-limits.ts';
import { Sequence } from './sequence.ts';
import { StepDraft } from './step-draft.ts';
import { plannedSequence, type StepPlan } from './step-plan.ts';
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

const reservationOf = ({ kvBlocks, kvBlockTokens, reserveTokens }: SchedulerLimits) =>
  reserveTokens === undefined ? null : new Reservation(kvBlocks, kvBlockTokens, reserveTokens);

export class Scheduler {
  readonly #limits: SchedulerLimits;
  readonly #kv: KvResidence;
  readonly #room: RoomMaker;
  readonly #movesPerStepMax: number;
  readonly #prefix: PrefixCache;
  readonly #freeSlots: number[];
  readonly #sequences = new Map<string, Sequence>();
  #waiting: Sequence[] = [];
  /** In the order of arrival. */
  #running: Sequence[] = [];
  #submitted = new Map<number, { sequence: Sequence; slot: number }[]>();
  #step = 0;
  #answered = 0;
  #arrivals: number;
  readonly #ledger = new WorkLedger();

  /** Without a hash there is no prefix cache. `handedOver`: by the scheduler of the epoch before. */
  constructor(
    limits: SchedulerLimits,
    prefixHash: PrefixHash | null = null,
    { sequences, arrivals }: HandOver = { sequences: [], arrivals: 0 },
  ) {
    this.#limits = limits;
    const { blocks, movesPerStepMax, choice } = checkedParking(limits);
    this.#movesPerStepMax = movesPerStepMax;
    const holders = sequences.map((sequence) => sequence.blocks);
    this.#kv = new KvResidence(limits, blocks, choice, holders);
    this.#room = new RoomMaker(
      this.#kv,
      limits.kvBlockTokens,
      movesPerStepMax,
      reservationOf(limits),
    );
    this.#prefix = new PrefixCache(this.#kv.pool, limits.kvBlockTokens, prefixHash);
    this.#freeSlots = Array.from(
      { length: limits.sequencesMax },
      (_, index) => limits.sequencesMax - 1 - index,
    );
    this.#arrivals = arrivals;
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

  /** Of each request here: the most positions that it can come to, and those whose KV is computed. */
  get requests(): { lengthMax: number; computed: number }[] {
    return [...this.#sequences.values()].map(({ lengthMax, computed }) => ({
      lengthMax,
      computed,
    }));
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
    this.#sequences.set(request.requestId, sequence);
    this.#waiting.push(sequence);
  }

  /** The request's tokens no longer matter; what it holds comes back once the ranks are done with it. Unknown ids are ignored. */
  cancel(requestId: string): void {
    const sequence = this.#sequences.get(requestId);
    if (sequence !== undefined) this.#end(sequence);
  }

  /** Everything here goes to the scheduler of the next epoch; this one is over. KV stays only between steps: throws while one is under way. */
  handOver(next: NextEpoch): HandOver {
    checkKept(next, this.#limits, this.#submitted.size);
    const sequences = bringToRest([...this.#sequences.values()], next, this.#limits);
    return { sequences, arrivals: this.#arrivals };
  }

  /** The next step, or null when there is nothing to do until a result or a request comes. */
  schedule(): StepPlan | null {
    const draft = new StepDraft(this.#step + 1, this.#limits.stepTokensMax, this.#movesPerStepMax);
    const { reloadedTokens } = this.#kv.counts;
    const lacksRoom = this.#takeDecodes(draft);
    // What is or may have to be preempted must not be named again, or its blocks would never come free.
    if (lacksRoom === null) {
      const newest = this.#running.at(-1);
      if (newest?.returning) this.#kv.bringBack(newest, draft);
      while (this.#admitNext(draft));
    }
    this.#takePrefills(draft, lacksRoom?.order ?? Number.POSITIVE_INFINITY);
    this.#room.parkAhead(this.#running, this.#waiting, draft);
    if (draft.sequences.length === 0 && draft.moves.length === 0) return null;
    return this.#submit(draft, this.#kv.counts.reloadedTokens - reloadedTokens);
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
   * One token of each sequence that decodes, oldest first. The first that finds no room is returned: newer ones are then left out of
   * this step, so that the newest comes to rest and can be preempted. Null: there was room for all.
   */
  #takeDecodes(draft: StepDraft): Sequence | null {
    for (const sequence of [...this.#running]) {
      if (sequence.slot === null) return sequence;
      if (sequence.pending !== 1 || sequence.complete || sequence.returning) continue;
      if (!this.#makeRoom(sequence, draft)) return sequence;
      draft.take(sequence, 1, []);
    }
    return null;
  }

  /** Chunks of the prompts that arrived before `orderEnd`: half of the budget for the oldest, then the shortest first. */
  #takePrefills(draft: StepDraft, orderEnd: number): void {
    const prefilling = this.#running.filter(
      (sequence) =>
        sequence.order < orderEnd &&
        !sequence.complete &&
        !sequence.returning &&
        draft.countOf(sequence) === 0,
    );
    for (const sequence of prefilling) this.#prefix.adopt(sequence);
    const [oldest, ...others] = prefilling;
    if (oldest === undefined) return;
    this.#takeChunk(draft, oldest, Math.ceil(draft.budget / 2));
    for (const sequence of others.toSorted((left, right) => left.pending - right.pending)) {
      const key = this.#prefix.nextKey(sequence);
      // Another sequence computes the very block in this step: it can be had for nothing in the next one.
      if (key !== null && draft.fills(key)) continue;
      this.#takeChunk(draft, sequence, draft.budget);
    }
    this.#takeChunk(draft, oldest, draft.budget);
  }

  #takeChunk(draft: StepDraft, sequence: Sequence, most: number): void {
    const taken = draft.countOf(sequence);
    const count = Math.min(sequence.pending - taken, most);
    if (count <= 0) return;
    draft.take(sequence, count, this.#prefix.keysFilledBy(sequence, taken + count));
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
      // A token on its way belongs to the victim: it is preempted when that token is back.
      if (victim === undefined || victim.samplesInFlight > 0 || !this.#isIdle(victim)) return false;
      this.#preempt(victim);
      if (victim === sequence) return false;
    }
    sequence.blocks.push(...pool.allocate(lacking));
    return true;
  }

  /** No step under way names it, so its blocks can be reused at once. */
  #isIdle(sequence: Sequence): boolean {
    return sequence.lastStep <= this.#answered;
  }

  #preempt(victim: Sequence): void {
    // One that was only admitted gives up nothing.
    if (victim.computed > 0) this.#ledger.gaveWay(victim);
    this.#running.pop();
    if (victim.slot !== null) this.#freeSlots.push(victim.slot);
    victim.slot = null;
    this.#kv.rest(victim);
    if (this.#limits.replaysWhole) this.#kv.drop(victim, 0);
    this.#waiting.unshift(victim);
  }

  #admitNext(draft: StepDraft): boolean {
    const next = this.#waiting[0];
    const slot = this.#freeSlots.at(-1);
    // One at a time comes back, and nobody newer starts before it runs.
    if (next === undefined || slot === undefined || this.#running.at(-1)?.returning) return false;
    const { pool } = this.#kv;
    const shared = this.#prefix.matches(next);
    const fresh = this.#blocksFor(next.length) - next.blocks.length - shared.length;
    const others = { running: this.#running, waiting: this.#waiting.slice(1) };
    if (!this.#room.makeStart({ next, fresh, shared }, others, draft)) return false;
    this.#waiting.shift();
    this.#freeSlots.pop();
    next.slot = slot;
    pool.share(shared);
    const allocated = pool.allocate(fresh);
    next.blocks.push(...allocated.splice(0, next.parked.length), ...shared, ...allocated);
    this.#prefix.adopted(next, shared.length);
    this.#running.push(next);
    this.#kv.bringBack(next, draft);
    return true;
  }

  #submit(draft: StepDraft, reloadedTokens: number): StepPlan {
    this.#step = draft.step;
    const sampling: { sequence: Sequence; slot: number }[] = [];
    let replayedTokens = 0;
    const sequences = draft.sequences.map(({ sequence, count }) => {
      const planned = plannedSequence(sequence, count, this.#limits.kvBlockTokens);
      replayedTokens += this.#ledger.computes(sequence, count, draft.step);
      this.#prefix.remember(sequence);
      if (planned.sampling !== null) {
        if (sequence.generated === 0) this.#prefix.count(sequence);
        sequence.samplesInFlight += 1;
        sampling.push({ sequence, slot: planned.slot });
      }
      return planned;
    });
    this.#submitted.set(draft.step, sampling);
    return { step: draft.step, moves: draft.moves, sequences, replayedTokens, reloadedTokens };
  }

  #accept<Sampled extends SampledResult>(
    sequence: Sequence,
    sampled: Sampled,
  ): SchedulerEvent<Sampled>[] {
    const { requestId, stopTokenIds, promptTokenIds, maxTokens } = sequence.request;
    sequence.samplesInFlight -= 1;
    sequence.tokens.push(sampled.tokenId);
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
