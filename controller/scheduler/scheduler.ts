/**
 * Which tokens go into which step. Pure: no clock, no chance, no I/O; the step loop asks for a plan, sends it and brings the results.
 *
 * Continuous batching under a token budget: decode first, then prompts in chunks. Requests are admitted in the order of arrival while a
 * slot and KV for their whole prompt are free, and a block for each running sequence beside it. Of what decodes leave of a step, the oldest prompt is sure of half; the other half goes to
 * the shortest prompts first, and what they leave to the oldest again. So a short prompt need not wait for a long one's chunks, and
 * everybody ends: in every step the oldest request gets a decode token or half of the prefill budget, whatever arrives after it.
 *
 * KV comes in blocks; when they run out the newest running sequence gives its blocks back and waits at the front of the queue, to be
 * prefilled again with the tokens it already has. The oldest is never the victim while another runs. Plans may be made before the results
 * of the last one are back: the ranks then take "the token just sampled". Blocks and slots are reused only after every rank has answered
 * the last step that names them; a full block can be read by others from the step after the one that fills it.
 */
import { HelsError } from '../../proto/domain/errors.ts';
import type { GenerationRequest, SamplingParameters } from '../../proto/domain/generation.ts';
import { BlockPool } from './block-pool.ts';
import { PrefixCache } from './prefix-cache.ts';
import type { PrefixHash } from './prefix-table.ts';
import { Sequence } from './sequence.ts';
import { StepDraft } from './step-draft.ts';

export interface SchedulerLimits {
  kvBlocks: number;
  kvBlockTokens: number;
  stepTokensMax: number;
  sequencesMax: number;
  /** Positions of one sequence. */
  contextTokensMax: number;
  /** Requests that may wait; one more is refused as overloaded. */
  waitingMax: number;
}

interface PlannedSequence {
  requestId: string;
  slot: number;
  /** The one input token is the one last sampled for the slot; `tokens` is empty. */
  takeSampled: boolean;
  tokens: number[];
  startPosition: number;
  blockTable: number[];
  /** Leading tokens of the prompt whose KV came from the prefix cache. */
  cachedTokens: number;
  /** null: nothing is sampled (a prompt's chunk that is not its last). */
  sampling: SamplingParameters | null;
}

export interface StepPlan {
  step: number;
  sequences: PlannedSequence[];
}

export interface SampledResult {
  slot: number;
  tokenId: number;
}

export type SchedulerEvent<Sampled extends SampledResult> =
  | { type: 'token'; requestId: string; sampled: Sampled }
  | { type: 'finished'; requestId: string; reason: 'stop' | 'length' };

interface Held {
  afterStep: number;
  blocks: number[];
  slot: number;
}

export class Scheduler {
  readonly #limits: SchedulerLimits;
  readonly #pool: BlockPool;
  readonly #prefix: PrefixCache;
  readonly #freeSlots: number[];
  readonly #sequences = new Map<string, Sequence>();
  #waiting: Sequence[] = [];
  /** In the order of arrival. */
  #running: Sequence[] = [];
  /** What ended sequences hold until the ranks have answered the last step that names it. */
  #held: Held[] = [];
  #submitted = new Map<number, { sequence: Sequence; slot: number }[]>();
  #step = 0;
  #answered = 0;
  #arrivals = 0;
  #preempted = 0;

  /** Without a hash there is no prefix cache. */
  constructor(limits: SchedulerLimits, prefixHash: PrefixHash | null = null) {
    if (limits.sequencesMax > limits.stepTokensMax) {
      throw new Error(
        'sequencesMax must not exceed stepTokensMax: each running sequence may decode',
      );
    }
    this.#limits = limits;
    this.#pool = new BlockPool(limits.kvBlocks);
    this.#prefix = new PrefixCache(this.#pool, limits.kvBlockTokens, prefixHash);
    this.#freeSlots = Array.from(
      { length: limits.sequencesMax },
      (_, index) => limits.sequencesMax - 1 - index,
    );
  }

  get counts() {
    return {
      running: this.#running.length,
      waiting: this.#waiting.length,
      kvBlocksUsed: this.#pool.usedCount,
      kvBlocksTotal: this.#pool.total,
      /** Of those not used: they hold what may be wanted again. */
      kvBlocksCached: this.#pool.cachedCount,
      preempted: this.#preempted,
      ...this.#prefix.counts,
    };
  }

  /** Positions that one sequence can have: the model's and the pool's limit. */
  get contextTokensMax(): number {
    const { contextTokensMax, kvBlocks, kvBlockTokens } = this.#limits;
    return Math.min(contextTokensMax, kvBlocks * kvBlockTokens);
  }

  /** Throws context-too-long for a request that can never fit, request-invalid for an empty one, overloaded when too many wait. */
  add(request: GenerationRequest): void {
    const wanted = request.promptTokenIds.length + request.maxTokens;
    if (request.promptTokenIds.length === 0) {
      throw new HelsError('request-invalid', 'prompt: it has no tokens; give at least one', {
        field: 'prompt',
      });
    }
    if (wanted > this.contextTokensMax) {
      throw new HelsError(
        'context-too-long',
        `prompt of ${request.promptTokenIds.length} tokens plus max_tokens ${request.maxTokens} is ${wanted}; ` +
          `one sequence may have ${this.contextTokensMax}`,
        { field: 'max_tokens' },
      );
    }
    if (this.#waiting.length >= this.#limits.waitingMax) {
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
    this.#sequences.set(request.requestId, sequence);
    this.#waiting.push(sequence);
  }

  /** The request's tokens no longer matter; what it holds comes back once the ranks are done with it. Unknown ids are ignored. */
  cancel(requestId: string): void {
    const sequence = this.#sequences.get(requestId);
    if (sequence !== undefined) this.#end(sequence);
  }

  /** The next step, or null when there is nothing to compute until a result or a request comes. */
  schedule(): StepPlan | null {
    const draft = new StepDraft(this.#limits.stepTokensMax);
    const lacksRoom = this.#takeDecodes(draft);
    // What is or may have to be preempted must not be named again, or its blocks would never come free.
    if (lacksRoom === null) while (this.#admitNext());
    this.#takePrefills(draft, lacksRoom?.order ?? Number.POSITIVE_INFINITY);
    const { sequences } = draft;
    return sequences.length === 0 ? null : this.#submit(sequences);
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
    this.#releaseHeld();
    return events;
  }

  /** Throws unless every block is accounted for, what is written has one owner, and every slot has one sequence. */
  checkIntegrity(): void {
    const holders = [...this.#running.map(({ blocks, slot }) => ({ blocks, slot })), ...this.#held];
    this.#pool.checkIntegrity(holders.map(({ blocks }) => blocks));
    for (const { blocks, computed, request } of this.#running) {
      const unfinished = blocks.slice(Math.floor(computed / this.#limits.kvBlockTokens));
      const shared = unfinished.filter((block) => this.#pool.referencesOf(block) > 1);
      const remembered = unfinished.filter((block) => this.#pool.hasContent(block));
      if (shared.length + remembered.length > 0) {
        throw new Error(
          `'${request.requestId}' writes to blocks ${[...shared, ...remembered].join()} that others may read`,
        );
      }
    }
    const slots = [...holders.map(({ slot }) => slot), ...this.#freeSlots];
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
      if (sequence.pending !== 1 || sequence.complete) continue;
      if (!this.#makeRoom(sequence)) return sequence;
      draft.take(sequence, 1, []);
    }
    return null;
  }

  /** Chunks of the prompts that arrived before `orderEnd`: half of the budget for the oldest, then the shortest first. */
  #takePrefills(draft: StepDraft, orderEnd: number): void {
    const prefilling = this.#running.filter(
      (sequence) =>
        sequence.order < orderEnd && !sequence.complete && draft.countOf(sequence) === 0,
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

  /** A block for the next position, preempting newer sequences when none is free. False: not in this step. */
  #makeRoom(sequence: Sequence): boolean {
    const lacking = this.#blocksFor(sequence.length) - sequence.blocks.length;
    if (lacking <= 0) return true;
    while (!this.#pool.canAllocate(lacking)) {
      const victim = this.#running.at(-1);
      // A token on its way belongs to the victim: it is preempted when that token is back.
      if (victim === undefined || victim.samplesInFlight > 0 || !this.#isIdle(victim)) return false;
      this.#preempt(victim);
      if (victim === sequence) return false;
    }
    sequence.blocks.push(...this.#pool.allocate(lacking));
    return true;
  }

  /** No step under way names it, so its blocks can be reused at once. */
  #isIdle(sequence: Sequence): boolean {
    return sequence.lastStep <= this.#answered;
  }

  #preempt(victim: Sequence): void {
    this.#running.pop();
    this.#pool.free(victim.blocks);
    if (victim.slot !== null) this.#freeSlots.push(victim.slot);
    victim.blocks = [];
    victim.slot = null;
    // One that was only admitted gives up nothing that has to be computed again.
    if (victim.computed > 0) this.#preempted += 1;
    victim.computed = 0;
    victim.remembered = 0;
    if (victim.generated === 0) victim.cachedTokens = 0;
    this.#waiting.unshift(victim);
  }

  #admitNext(): boolean {
    const next = this.#waiting[0];
    if (next === undefined) return false;
    const slot = this.#freeSlots.at(-1);
    if (slot === undefined) return false;
    const shared = this.#prefix.matches(next);
    const fresh = this.#blocksFor(next.length) - shared.length;
    // Without a block that each running sequence will need soon, the newcomer would be preempted with its work hardly done.
    const reserve = this.#running.length;
    if (!this.#pool.canAllocate(fresh + reserve, shared)) return false;
    this.#waiting.shift();
    this.#freeSlots.pop();
    next.slot = slot;
    this.#pool.share(shared);
    next.blocks = [...shared, ...this.#pool.allocate(fresh)];
    this.#prefix.adopted(next, shared.length);
    this.#running.push(next);
    return true;
  }

  #submit(planned: readonly { sequence: Sequence; count: number }[]): StepPlan {
    this.#step += 1;
    const step = this.#step;
    const sampling: { sequence: Sequence; slot: number }[] = [];
    const sequences = planned.map(({ sequence, count }) => {
      const startPosition = sequence.computed;
      const last = startPosition + count === sequence.length;
      const takeSampled = sequence.samplesInFlight > 0;
      const slot = sequence.slot as number;
      const tokens = takeSampled ? [] : sequence.tokens.slice(startPosition, startPosition + count);
      sequence.computed += count;
      sequence.lastStep = step;
      this.#prefix.remember(sequence);
      if (last) {
        if (sequence.generated === 0) this.#prefix.count(sequence);
        sequence.samplesInFlight += 1;
        sampling.push({ sequence, slot });
      }
      return {
        requestId: sequence.request.requestId,
        slot,
        takeSampled,
        tokens,
        startPosition,
        blockTable: sequence.blocks.slice(0, this.#blocksFor(startPosition + count)),
        cachedTokens: sequence.cachedTokens,
        sampling: last ? sequence.request.sampling : null,
      };
    });
    this.#submitted.set(step, sampling);
    return { step, sequences };
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
    if (sequence.slot === null) {
      this.#waiting = this.#waiting.filter((other) => other !== sequence);
      return;
    }
    this.#running = this.#running.filter((other) => other !== sequence);
    const { lastStep, blocks, slot } = sequence;
    this.#held.push({ afterStep: lastStep, blocks, slot });
    this.#releaseHeld();
  }

  #releaseHeld(): void {
    const free = this.#held.filter(({ afterStep }) => afterStep <= this.#answered);
    this.#held = this.#held.filter(({ afterStep }) => afterStep > this.#answered);
    for (const { blocks, slot } of free) {
      this.#pool.free(blocks);
      this.#freeSlots.push(slot);
    }
  }
}
