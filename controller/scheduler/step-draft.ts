import type { KvMove } from '../../proto/domain/kv-residency.ts';
import type { Sequence } from './sequence.ts';

/** A step while it is put together: which blocks it moves, how many tokens of which sequences, and what is left of its budgets. */
export class StepDraft {
  readonly #counts = new Map<Sequence, number>();
  /** Keys of the prefix cache's blocks that the step fills. */
  readonly #filled = new Set<string>();
  /** Its number, if it is submitted; one with moves always is. */
  readonly step: number;
  readonly moves: KvMove[] = [];
  #budget: number;
  readonly #movesMax: number;

  constructor(step: number, stepTokensMax: number, movesMax: number) {
    this.step = step;
    this.#budget = stepTokensMax;
    this.#movesMax = movesMax;
  }

  get movesLeft(): number {
    return this.#movesMax - this.moves.length;
  }

  get budget(): number {
    return this.#budget;
  }

  /** In the order in which they were first taken. */
  get sequences(): readonly { sequence: Sequence; count: number }[] {
    return [...this.#counts].map(([sequence, count]) => ({ sequence, count }));
  }

  countOf(sequence: Sequence): number {
    return this.#counts.get(sequence) ?? 0;
  }

  fills(key: string): boolean {
    return this.#filled.has(key);
  }

  /** `count` more tokens, at least 1 and at most the budget. */
  take(sequence: Sequence, count: number, filledKeys: readonly string[]): void {
    this.#counts.set(sequence, this.countOf(sequence) + count);
    this.#budget -= count;
    for (const key of filledKeys) this.#filled.add(key);
  }
}
