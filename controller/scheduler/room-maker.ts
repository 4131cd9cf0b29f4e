/** Who gives up KV for whom: of the sequences that wait, the last in the order first. */
import type { KvResidence, Reclaimed } from './kv-residence.ts';
import { Reservation } from './reservation.ts';
import type { SchedulerLimits } from './scheduler-limits.ts';
import { growthOf, type Sequence } from './sequence.ts';
import type { StepDraft } from './step-draft.ts';
import { isBefore } from './turn-order.ts';

/** A sequence may need a block for each of so many positions before what is parked now is free: steps under way, and the next ones. */
const stepsAhead = 4;

/** A sequence that is to run: beside the `shared` blocks that it found it needs `fresh` ones. */
export interface Newcomer {
  readonly next: Sequence;
  readonly fresh: number;
  readonly shared: readonly number[];
}

/** Of the newcomer, both in their order. */
interface Others {
  readonly running: readonly Sequence[];
  readonly waiting: readonly Sequence[];
}

/** It can start now; when steps under way are answered; or not, as things are. */
export type Start = 'now' | 'coming' | 'no';

export class RoomMaker {
  readonly #kv: KvResidence;
  readonly #blockTokens: number;
  readonly #movesPerStepMax: number;
  readonly #reservation: Reservation | null;

  /** Where room is reserved nobody gives way, so nobody starts whose whole length does not fit. */
  constructor(kv: KvResidence, limits: SchedulerLimits, movesPerStepMax: number) {
    const { kvBlocks, kvBlockTokens, reserveTokens } = limits;
    this.#kv = kv;
    this.#blockTokens = kvBlockTokens;
    this.#movesPerStepMax = movesPerStepMax;
    this.#reservation =
      reserveTokens === undefined ? null : new Reservation(kvBlocks, kvBlockTokens, reserveTokens);
  }

  /** Whether what a sequence lacks is set aside for it already: it comes with answers, or those that wait hold it. */
  get reserves(): boolean {
    return this.#reservation !== null;
  }

  /** Whether `count` blocks will be free when the moves under way are done; with a reservation, when all steps are. */
  isComing(count: number): boolean {
    return this.#kv.pool.freeCount + this.#coming >= count;
  }

  get #coming(): number {
    return this.reserves ? this.#kv.heldBack : this.#kv.coming;
  }

  /** One block of those that wait. */
  reclaim(waiting: readonly Sequence[], draft: StepDraft): Reclaimed {
    const from = this.#giverAmong(waiting);
    return from === undefined ? 'none' : this.#kv.reclaim(from, draft);
  }

  /** All KV of the last that waits and has any: the last resort, for blocks that several share. False: there is none. */
  forget(waiting: readonly Sequence[]): boolean {
    const from = waiting.findLast((sequence) => sequence.blocks.length > 0);
    if (from === undefined) return false;
    this.#kv.drop(from, 0);
    return true;
  }

  /**
   * Parks ahead what the running sequences will need soon: a block is free only when the step that moves it away is answered. Dropping
   * takes no time, so it is not done ahead.
   */
  parkAhead(running: readonly Sequence[], waiting: readonly Sequence[], draft: StepDraft): void {
    if (!this.#kv.hasParking) return;
    const needed = growthOf(running, stepsAhead, this.#blockTokens);
    while (!this.isComing(needed)) {
      const from = this.#giverAmong(waiting);
      if (from === undefined || !this.#kv.parkAhead(from, draft)) return;
    }
  }

  /**
   * Whether the newcomer can start; where it can, those that wait have made room for it. Without a block that each running sequence will
   * need soon, it would be preempted with its work hardly done; one that gave way before waits for more, or the two would take turns.
   */
  makeStart(newcomer: Newcomer, others: Others, draft: StepDraft): Start {
    const { pool } = this.#kv;
    const { next, shared } = newcomer;
    const { running, waiting } = others;
    if (this.#reservation !== null && !this.#reservation.fits(next, running)) return 'no';
    // Nobody gives up anything for one that cannot start even so.
    const reclaimable = this.reserves ? 0 : this.#reclaimable(newcomer, waiting);
    if (!this.reserves && !this.#couldStart(newcomer, running, reclaimable)) return 'no';
    const wanted = this.#wantedFor(newcomer, running);
    // Those that an epoch with more KV handed over may hold what is set aside for others: so they lose it, whoever runs.
    const forgets = running.length === 0 || this.reserves;
    while (!pool.canAllocate(wanted, shared)) {
      if (pool.canAllocate(wanted - this.#coming, shared)) return 'coming';
      const reclaimed = this.reclaim(waiting, draft);
      if (reclaimed === 'later') return 'coming';
      if (reclaimed === 'none' && !(forgets && this.forget(waiting))) return 'no';
    }
    return 'now';
  }

  /**
   * Of the running ones that come after the newcomer in the order, the last so many as must give way for it to start, `least` at least;
   * none where that would not help.
   */
  givingWay(newcomer: Newcomer, { running, waiting }: Others, least: number): Sequence[] {
    if (this.reserves) return [];
    let reclaimable = this.#reclaimable(newcomer, waiting);
    for (let first = running.length - 1; first >= 0; first -= 1) {
      const leaving = running[first] as Sequence;
      if (!isBefore(newcomer.next, leaving)) return [];
      reclaimable += this.#reclaimable(newcomer, [leaving]);
      const isEnough = running.length - first >= least;
      const staying = running.slice(0, first);
      if (isEnough && this.#couldStart(newcomer, staying, reclaimable)) return running.slice(first);
    }
    return [];
  }

  /** Blocks that the sequences can give to the newcomer: not those that it shares with them. */
  #reclaimable({ shared }: Newcomer, sequences: readonly Sequence[]): number {
    const wanted = new Set(shared);
    return sequences.reduce((sum, other) => sum + this.#kv.reclaimable(other, wanted), 0);
  }

  /** Whether there will be room, with so many blocks of others. */
  #couldStart(newcomer: Newcomer, running: readonly Sequence[], reclaimable: number): boolean {
    if (running.length === 0) return true;
    const lacking = this.#wantedFor(newcomer, running) - reclaimable - this.#coming;
    return this.#kv.pool.canAllocate(lacking, newcomer.shared);
  }

  #wantedFor({ next, fresh }: Newcomer, running: readonly Sequence[]): number {
    if (this.reserves || running.length === 0) return fresh;
    return fresh + running.length + (next.gaveWay ? this.#marginOf(next, running) : 0);
  }

  #giverAmong(waiting: readonly Sequence[]): Sequence | undefined {
    return waiting.findLast((sequence) => this.#kv.reclaimable(sequence) > 0);
  }

  /**
   * What all of them will ask for while `next` comes back, and then while it runs for as many steps as it was moved in: less would not be
   * worth the moves.
   */
  #marginOf(next: Sequence, running: readonly Sequence[]): number {
    const stepsBack = Math.ceil(next.parked.length / this.#movesPerStepMax);
    const stepsRun = stepsAhead + stepsBack;
    const growth = (sequences: readonly Sequence[], steps: number) =>
      growthOf(sequences, steps, this.#blockTokens);
    return growth(running, stepsBack + stepsRun) + growth([next], stepsRun);
  }
}
