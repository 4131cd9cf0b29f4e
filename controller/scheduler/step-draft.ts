import type { Sequence } from './sequence.ts';

/** A step while it is put together: how many tokens of which sequences, and what is left of its budget. */
export class StepDraft {
  readonly #counts = new Map<Sequence, number>();
  /** Keys of the prefix cache's blocks that the step fills. */
  readonly #filled = new Set<string>();
  #budget: number;

  constructor(stepTokensMax: number) {
    this.#budget = stepTokensMax;
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
