/** Room that is set aside for whole sequences when they start, so that none of them ever has to give way. Pure. */

interface Reserved {
  /** Positions of the sequence at its end. */
  readonly lengthMax: number;
}

export class Reservation {
  readonly #blocks: number;
  readonly #blockTokens: number;
  readonly #unitTokens: number;

  /** `blocks` of `blockTokens` positions; room is set aside in multiples of `unitTokens`. Throws for a unit below one. */
  constructor(blocks: number, blockTokens: number, unitTokens: number) {
    if (!(unitTokens >= 1)) throw new Error(`reserveTokens is ${unitTokens}; it must be 1 or more`);
    this.#blocks = blocks;
    this.#blockTokens = blockTokens;
    this.#unitTokens = unitTokens;
  }

  /** Whether all of `next` fits beside all of those that run. One alone always does: the scheduler takes none that could not. */
  fits(next: Reserved, running: readonly Reserved[]): boolean {
    const taken = running.reduce((sum, sequence) => sum + this.#blocksOf(sequence), 0);
    return running.length === 0 || taken + this.#blocksOf(next) <= this.#blocks;
  }

  #blocksOf({ lengthMax }: Reserved): number {
    const tokens = Math.ceil(lengthMax / this.#unitTokens) * this.#unitTokens;
    return Math.ceil(tokens / this.#blockTokens);
  }
}
