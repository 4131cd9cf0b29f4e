/** The KV blocks of the group: every rank has the same block ids. Pure bookkeeping; a block has one owner or is free. */
export class BlockPool {
  readonly total: number;
  readonly #free: number[];
  readonly #owned = new Set<number>();

  constructor(total: number) {
    this.total = total;
    // Popped from the end: low ids first.
    this.#free = Array.from({ length: total }, (_, index) => total - 1 - index);
  }

  get freeCount(): number {
    return this.#free.length;
  }

  get usedCount(): number {
    return this.#owned.size;
  }

  canAllocate(count: number): boolean {
    return count <= this.#free.length;
  }

  /** Throws when `canAllocate(count)` does not hold. */
  allocate(count: number): number[] {
    if (!this.canAllocate(count)) {
      throw new Error(`${count} KV blocks asked for, ${this.#free.length} free`);
    }
    const blocks = this.#free.splice(this.#free.length - count, count).reverse();
    for (const block of blocks) this.#owned.add(block);
    return blocks;
  }

  /** Throws for a block that is not allocated: freed twice, it would get two owners. */
  free(blocks: readonly number[]): void {
    for (const block of blocks) {
      if (!this.#owned.delete(block)) throw new Error(`KV block ${block} is not allocated`);
      this.#free.push(block);
    }
  }

  /** Throws unless every block is either free or owned, exactly once. */
  checkIntegrity(): void {
    const free = new Set(this.#free);
    const twice = this.#free.length - free.size;
    const both = [...free].filter((block) => this.#owned.has(block)).length;
    if (twice > 0 || both > 0 || free.size + this.#owned.size !== this.total) {
      throw new Error(
        `KV blocks: ${free.size} free, ${this.#owned.size} owned, ${twice} twice, ${both} both, of ${this.total}`,
      );
    }
  }
}
