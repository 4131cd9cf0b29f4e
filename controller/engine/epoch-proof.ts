/**
 * Whether the ranks of the current epoch have answered a step: a real token went through all of them. Those of a new deployment are
 * nobody's until then; of a re-plan that is under way the ranks before have, a moment ago. Pure.
 */
export class EpochProof {
  /** null: they have. */
  #silentSinceMs: number | null = Number.NEGATIVE_INFINITY;

  /** Since when no rank of the group answers; null: the current ones have; -Infinity: none of it ever has. */
  get silentSinceMs(): number | null {
    return this.#silentSinceMs;
  }

  answered(): void {
    this.#silentSinceMs = null;
  }

  /** What was under way is answered; what follows is another epoch's. */
  paused(nowMs: number): void {
    this.#silentSinceMs ??= nowMs;
  }
}
