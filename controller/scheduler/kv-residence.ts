/**
 * Where the KV of each sequence is: in blocks that steps run from, or at parked addresses while it waits. A sequence that gave way keeps
 * its blocks until they are needed; then it loses them from its end, one by one: parked, or dropped and computed again later.
 *
 * Only blocks that nobody else reads are parked or dropped on their own. What a step under way names, as block, source or target of a
 * move, is reused only after every rank has answered it.
 */
import { BlockPool } from './block-pool.ts';
import { ParkingLot } from './parking-lot.ts';
import type { RestoreChoice } from './restore-choice.ts';
import type { SchedulerLimits } from './scheduler-limits.ts';
import type { Sequence } from './sequence.ts';
import type { StepDraft } from './step-draft.ts';
import type { ReturnedKv } from './step-plan.ts';

/**
 * What became of a wish for one more free block: it is `freed`, it is `coming` when the step that moves it is answered, it may be had
 * `later` (moves or parked addresses are used up until an answer), or the sequence has `none` to give.
 */
export type Reclaimed = 'freed' | 'coming' | 'later' | 'none';

const nothing: ReadonlySet<number> = new Set();

type KvRoom = Pick<SchedulerLimits, 'kvBlocks' | 'localBlocks' | 'kvBlockTokens'>;

interface Held {
  readonly afterStep: number;
  readonly blocks: readonly number[];
  readonly parked: readonly number[];
  readonly slot: number | null;
  /** The blocks were moved away to make room. */
  readonly moved: boolean;
}

/** A block on loan that sequences which run hold, each in one place of its table, and the tokens whose KV it holds. */
export interface LentBlock {
  readonly block: number;
  readonly holders: { readonly sequence: Sequence; readonly index: number }[];
  readonly tokens: number;
}

export class KvResidence {
  readonly pool: BlockPool;
  readonly #lot: ParkingLot;
  readonly #blockTokens: number;
  readonly choice: RestoreChoice;
  #held: Held[] = [];
  #answered = 0;
  #parkedBlocks = 0;
  #reloadedBlocks = 0;
  #reloadedTokens = 0;
  #recalledBlocks = 0;
  #recalledTokens = 0;
  #told: ReturnedKv = { reloadedTokens: 0, recalledBlocks: 0, recalledTokens: 0 };
  #droppedTokens = 0;
  #droppedByChoiceTokens = 0;

  /** `parkedBlocks` of addresses after the runnable ones; `holders`: sequences that an earlier epoch handed over. */
  constructor(
    { kvBlocks, localBlocks = kvBlocks, kvBlockTokens }: KvRoom,
    parkedBlocks: number,
    choice: RestoreChoice,
    holders: readonly Pick<Sequence, 'blocks' | 'parked'>[] = [],
  ) {
    const blocks = holders.map((holder) => holder.blocks);
    this.pool = new BlockPool(kvBlocks, blocks, localBlocks);
    const parked = holders.flatMap((holder) => holder.parked);
    this.#lot = new ParkingLot(kvBlocks, kvBlocks + parkedBlocks, parked);
    this.#blockTokens = kvBlockTokens;
    this.choice = choice;
  }

  get counts() {
    return {
      kvParkedBlocksUsed: this.#lot.usedCount,
      kvParkedBlocksTotal: this.#lot.total,
      /** Moved away and back, since the beginning. */
      parkedBlocks: this.#parkedBlocks,
      reloadedBlocks: this.#reloadedBlocks,
      reloadedTokens: this.#reloadedTokens,
      /** Home from loans, since the beginning. */
      recalledBlocks: this.#recalledBlocks,
      recalledTokens: this.#recalledTokens,
      /** Given up, since the beginning. */
      droppedTokens: this.#droppedTokens,
      /** Of these, where there was a parked address and computing again was cheaper. */
      droppedByChoiceTokens: this.#droppedByChoiceTokens,
    };
  }

  /** What steps moved to where it can run, or home, since the last call. */
  takeReturned(): ReturnedKv {
    const { reloadedTokens, recalledBlocks, recalledTokens } = this.counts;
    const told = this.#told;
    this.#told = { reloadedTokens, recalledBlocks, recalledTokens };
    return {
      reloadedTokens: reloadedTokens - told.reloadedTokens,
      recalledBlocks: recalledBlocks - told.recalledBlocks,
      recalledTokens: recalledTokens - told.recalledTokens,
    };
  }

  get hasParking(): boolean {
    return this.#lot.total > 0;
  }

  get parkedAddresses(): Iterable<number> {
    return this.#lot.used;
  }

  /** Blocks that are free as soon as the steps that move them away are answered. */
  get coming(): number {
    let blocks = 0;
    for (const held of this.#held) if (held.moved) blocks += held.blocks.length;
    return blocks;
  }

  /** As `coming`, with what sequences that are over hold until the steps under way are answered. Others may read some of it still. */
  get heldBack(): number {
    return this.#held.reduce((sum, { blocks }) => sum + blocks.length, 0);
  }

  /** A slot is free when the steps under way are answered. */
  get slotIsComing(): boolean {
    return this.#held.some(({ slot }) => slot !== null);
  }

  /** What `sequence`, which is over, holds, until the last step that names it is answered. */
  holdAll(sequence: Sequence): void {
    const { blocks, parked, slot, lastStep } = sequence;
    this.#held.push({ afterStep: lastStep, blocks, parked, slot, moved: false });
    sequence.blocks = [];
    sequence.parked = [];
  }

  /** Every rank has answered `step`. Returns the slots that come free. */
  release(answered: number): number[] {
    this.#answered = answered;
    const free = this.#held.filter(({ afterStep }) => afterStep <= answered);
    if (free.length === 0) return [];
    this.#held = this.#held.filter(({ afterStep }) => afterStep > answered);
    for (const { blocks, parked } of free) {
      this.pool.free(blocks);
      this.#lot.giveBack(parked);
    }
    return free.flatMap(({ slot }) => slot ?? []);
  }

  /** The sequence stops running: it keeps the KV that it has and gives back room for what it has not. No step under way names it. */
  rest(sequence: Sequence): void {
    const held = Math.ceil(sequence.computed / this.#blockTokens);
    const kept = sequence.parked.length > 0 ? sequence.parkedFrom : held;
    const covered = kept + sequence.parked.length;
    this.#keepBlocks(sequence, kept);
    this.#keepTokens(sequence, covered * this.#blockTokens);
  }

  /** Blocks that it could lose from its end, one by one, without those that are `wanted` as they are. */
  reclaimable(sequence: Sequence, wanted: ReadonlySet<number> = nothing): number {
    const { blocks } = sequence;
    const last = blocks.findLastIndex(
      (block) => this.pool.referencesOf(block) > 1 || wanted.has(block),
    );
    return blocks.length - 1 - last;
  }

  /** Takes the last block of a sequence that waits. */
  reclaim(sequence: Sequence, draft: StepDraft): Reclaimed {
    const index = sequence.blocks.length - 1;
    const block = sequence.blocks[index];
    if (block === undefined || this.pool.referencesOf(block) > 1) return 'none';
    const start = index * this.#blockTokens;
    const tokens = Math.min(sequence.computed - start, this.#blockTokens);
    const parks = this.hasParking && this.choice.parks(tokens, start);
    if (!parks && this.#lot.freeCount > 0) this.#droppedByChoiceTokens += tokens;
    if (parks) {
      const room = draft.movesLeft > 0 ? this.#parkingRoom(sequence) : 'later';
      if (room === 'later') return 'later';
      if (room === 'now') {
        this.#park(sequence, block, draft);
        return 'coming';
      }
    }
    this.drop(sequence, index);
    return 'freed';
  }

  /** Parks the last block of a sequence that waits before its room is needed. False, and nothing changes, where KV would be given up. */
  parkAhead(sequence: Sequence, draft: StepDraft): boolean {
    const index = sequence.blocks.length - 1;
    const block = sequence.blocks[index];
    if (block === undefined || this.pool.referencesOf(block) > 1) return false;
    if (this.#lot.freeCount === 0 || draft.movesLeft === 0) return false;
    const start = index * this.#blockTokens;
    if (!this.choice.pays(Math.min(sequence.computed - start, this.#blockTokens), start)) {
      return false;
    }
    this.#park(sequence, block, draft);
    return true;
  }

  /** It is to be computed again from block `index` on; what comes after it is of no use without it. */
  drop(sequence: Sequence, index: number): void {
    const { parked } = sequence;
    if (parked.length > 0) {
      sequence.parked = [];
      this.#hold(sequence.lastStep, [], parked, false);
    }
    this.#keepBlocks(sequence, index);
    this.#keepTokens(sequence, index * this.#blockTokens);
  }

  /** Moves as much of it back as the step has moves for. It may compute in the same step once all is back. */
  bringBack(sequence: Sequence, draft: StepDraft): void {
    const count = Math.min(sequence.parked.length, draft.movesLeft);
    if (count === 0) return;
    const back = sequence.parked.splice(0, count);
    for (const from of back) {
      draft.moves.push({ from, to: sequence.blocks[sequence.parkedFrom] as number });
      const start = sequence.parkedFrom * this.#blockTokens;
      this.#reloadedTokens += Math.min(sequence.computed - start, this.#blockTokens);
      sequence.parkedFrom += 1;
    }
    this.#reloadedBlocks += count;
    sequence.lastStep = draft.step;
    this.#hold(draft.step, [], back, false);
  }

  /**
   * Brings a block home, to the same place in the tables of all that hold it. What the step computes is written there; what has no KV yet is
   * named by no step, so nothing moves. Throws where no room is, or where others hold it.
   */
  recall({ block: lent, holders, tokens }: LentBlock, draft: StepDraft): void {
    const home = this.pool.recall(lent, holders.length);
    for (const { sequence, index } of holders) sequence.blocks[index] = home;
    if (tokens === 0) {
      this.pool.free([lent]);
      return;
    }
    draft.moves.push({ from: lent, to: home });
    for (const { sequence } of holders) sequence.lastStep = draft.step;
    this.#recalledBlocks += 1;
    this.#recalledTokens += tokens;
    this.#hold(draft.step, [lent], [], true);
  }

  /** Throws unless everything is in one state and held by whom `sequences` say. Returns the slots that are held. */
  checkIntegrity(sequences: readonly Sequence[]): number[] {
    const holders = [...sequences, ...this.#held];
    this.pool.checkIntegrity(holders.map(({ blocks }) => blocks));
    this.#lot.checkIntegrity(holders.map(({ parked }) => parked));
    for (const sequence of sequences) if (sequence.slot !== null) this.#checkWritten(sequence);
    for (const { slot, blocks, parked, parkedFrom, computed, request } of sequences) {
      const known = slot === null ? blocks.length + parked.length : blocks.length;
      const misplaced = slot === null && parked.length > 0 && parkedFrom !== blocks.length;
      if (misplaced || computed > known * this.#blockTokens) {
        throw new Error(`'${request.requestId}' has computed ${computed} in ${known} blocks`);
      }
    }
    return this.#held.flatMap(({ slot }) => slot ?? []);
  }

  #checkWritten({ blocks, computed, request }: Sequence): void {
    const unfinished = blocks.slice(Math.floor(computed / this.#blockTokens));
    const shared = unfinished.filter((block) => this.pool.referencesOf(block) > 1);
    const remembered = unfinished.filter((block) => this.pool.hasContent(block));
    if (shared.length + remembered.length > 0) {
      throw new Error(
        `'${request.requestId}' writes to blocks ${[...shared, ...remembered].join()} that others may read`,
      );
    }
  }

  /** A parked address for one more block of the sequence; when all are used, in place of its own last parked one. */
  #parkingRoom(sequence: Sequence): 'now' | 'later' | 'none' {
    if (this.#lot.freeCount > 0) return 'now';
    if (this.#held.some(({ parked }) => parked.length > 0)) return 'later';
    const last = sequence.parked.at(-1);
    if (last === undefined) return 'none';
    if (sequence.lastStep > this.#answered) return 'later';
    sequence.parked.pop();
    this.#lot.giveBack([last]);
    const covered = sequence.blocks.length + sequence.parked.length;
    this.#keepTokens(sequence, covered * this.#blockTokens);
    return 'now';
  }

  #park(sequence: Sequence, block: number, draft: StepDraft): void {
    const address = this.#lot.take();
    draft.moves.push({ from: block, to: address });
    sequence.blocks.pop();
    sequence.parked.unshift(address);
    sequence.parkedFrom = sequence.blocks.length;
    sequence.remembered = Math.min(sequence.remembered, sequence.parkedFrom);
    sequence.lastStep = draft.step;
    this.#parkedBlocks += 1;
    this.#hold(draft.step, [block], [], true);
  }

  #hold(afterStep: number, blocks: number[], parked: number[], moved: boolean): void {
    if (afterStep <= this.#answered) {
      this.pool.free(blocks);
      this.#lot.giveBack(parked);
    } else this.#held.push({ afterStep, blocks, parked, slot: null, moved });
  }

  #keepBlocks(sequence: Sequence, count: number): void {
    this.pool.free(sequence.blocks.splice(count));
    sequence.parkedFrom = Math.min(sequence.parkedFrom, count);
    if (sequence.parked.length === 0) sequence.parkedFrom = count;
    sequence.remembered = Math.min(sequence.remembered, count);
  }

  #keepTokens(sequence: Sequence, positions: number): void {
    const { computed } = sequence;
    if (computed <= positions) return;
    this.#droppedTokens += computed - positions;
    sequence.computed = positions;
  }
}
