/** The split of a policy for a workload, with as many of its sequences resident as is best (docs/planner.md). Pure. */
import type { PlanInput, PlanPolicy } from '../../proto/domain/plan.ts';
import { better } from './evaluate.ts';
import { movesArePriced } from './eviction-price.ts';
import { compileProblem, type Problem } from './problem.ts';
import { type Solved, solve } from './solve.ts';

export interface SolvedWorkload {
  readonly problem: Problem;
  readonly solved: Solved;
  /** Sequences whose KV lies somewhere at once; null: eviction is not allowed, or has no price. */
  readonly residentSequences: number | null;
}

/** Halvings down from all sequences, then between the best and its neighbours. */
class ResidencySearch {
  readonly #input: PlanInput;
  readonly #policy: PlanPolicy;
  readonly #tried = new Map<number, SolvedWorkload>();
  #iterations = 0;
  #best: number;

  constructor(input: PlanInput, policy: PlanPolicy) {
    this.#input = input;
    this.#policy = policy;
    this.#best = input.workload.sequences;
  }

  #try(residentSequences: number): void {
    if (this.#tried.has(residentSequences)) return;
    const problem = compileProblem(this.#input, residentSequences);
    const solved = solve(problem, this.#policy);
    this.#iterations += solved.iterations;
    const known = this.#tried.get(this.#best)?.solved.best ?? null;
    this.#tried.set(residentSequences, { problem, solved, residentSequences });
    // Where nothing fits, the fewest resident sequences come closest.
    const chosen = better(known, solved.best);
    if (chosen === null ? residentSequences < this.#best : chosen !== known) {
      this.#best = residentSequences;
    }
  }

  #neighbours(): number[] {
    const sizes = [...this.#tried.keys()];
    const below = Math.max(0, ...sizes.filter((size) => size < this.#best));
    const above = Math.min(...sizes.filter((size) => size > this.#best), Number.POSITIVE_INFINITY);
    return [below, above].filter((size) => size > 0 && Number.isFinite(size));
  }

  run(): SolvedWorkload {
    for (let size = this.#input.workload.sequences; size >= 1; size = Math.floor(size / 2)) {
      this.#try(size);
    }
    for (;;) {
      const best = this.#best;
      const middles = this.#neighbours().map((size) => Math.floor((size + best) / 2));
      const open = middles.filter((size) => !this.#tried.has(size));
      if (open.length === 0) break;
      for (const size of open) this.#try(size);
    }
    const found = this.#tried.get(this.#best) as SolvedWorkload;
    return { ...found, solved: { ...found.solved, iterations: this.#iterations } };
  }
}

/** Throws config-invalid as `solve` does. */
export function solveWorkload(input: PlanInput, policy: PlanPolicy): SolvedWorkload {
  if (movesArePriced(input)) return new ResidencySearch(input, policy).run();
  const problem = compileProblem(input);
  return { problem, solved: solve(problem, policy), residentSequences: null };
}
