/** What sequences were given to compute, and whose turn it was: counted since the beginning. */
import type { Sequence } from './sequence.ts';

/** A sequence gave way, or computes again. */
export interface Turn {
  readonly type: 'gave-way' | 'resumed';
  readonly requestId: string;
}

export class WorkLedger {
  #turns: Turn[] = [];
  #preempted = 0;
  #computedTokens = 0;
  #recomputedTokens = 0;

  get counts() {
    return {
      preempted: this.#preempted,
      /** Given to the ranks to compute, since the beginning; and of these, a second time. */
      computedTokens: this.#computedTokens,
      recomputedTokens: this.#recomputedTokens,
    };
  }

  /** Who gave way and who runs again since the last call, in order. */
  takeTurns(): Turn[] {
    return this.#turns.splice(0);
  }

  /** One that had computed something is preempted. */
  gaveWay(sequence: Sequence): void {
    this.#preempted += 1;
    sequence.gaveWay = true;
    // Whose way back was broken off has been away all the time.
    if (!sequence.away) this.#turn('gave-way', sequence);
    sequence.away = true;
  }

  /** `step` computes so many positions more of the sequence. Returns how many of them were computed before. */
  computes(sequence: Sequence, count: number, step: number): number {
    if (sequence.away) this.#turn('resumed', sequence);
    sequence.away = false;
    const replayed = Math.min(count, Math.max(0, sequence.computedMost - sequence.computed));
    this.#computedTokens += count;
    this.#recomputedTokens += replayed;
    sequence.computed += count;
    sequence.computedMost = Math.max(sequence.computedMost, sequence.computed);
    sequence.lastStep = step;
    return replayed;
  }

  #turn(type: Turn['type'], { request }: Sequence): void {
    this.#turns.push({ type, requestId: request.requestId });
  }
}
