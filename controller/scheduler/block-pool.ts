/**
 * The KV blocks of the group: every rank has the same block ids. Pure bookkeeping. A block is
 *
 *   free       nobody holds it and it says nothing
 *   held       by one sequence or, when it is full and only read, by several: as many as it has references
 *   cached     nobody holds it, its content is known and may be wanted again; the one unused longest is given away first
 *
 * Free and cached blocks can both be allocated; free ones first, the lowest first. With loans the ids from `localBlocks` on lie on another
 * rank, which costs an exchange in every step that names them: cached blocks below are given away before free ones from there on, and what
 * lies there can be recalled.
 */
import { LowestFirst } from './lowest-first.ts';
import { type BlockContent, type PrefixEntry, PrefixTable } from './prefix-table.ts';

/** Those below `localBlocks`, or the others. */
interface Allocatable {
  readonly free: LowestFirst;
  /** In the order in which they came free. */
  readonly cached: Set<number>;
}

export class BlockPool {
  readonly total: number;
  /** References of the held blocks. */
  readonly #references = new Map<number, number>();
  readonly #localBlocks: number;
  readonly #local: Allocatable;
  readonly #lent: Allocatable;
  readonly #table = new PrefixTable();
  #evicted = 0;

  /**
   * `holders`: the blocks that sequences hold from the beginning, below `total`. `localBlocks`: from this id on they lie on another rank
   * than the one whose heads they are of, for one rank at least.
   */
  constructor(
    total: number,
    holders: readonly (readonly number[])[] = [],
    localBlocks: number = total,
  ) {
    this.total = total;
    this.#localBlocks = Math.min(localBlocks, total);
    for (const block of holders.flat()) {
      if (block >= total) throw new Error(`KV block ${block} is held; there are ${total}`);
      this.#references.set(block, this.referencesOf(block) + 1);
    }
    const held = new Set(this.#references.keys());
    this.#local = { free: new LowestFirst(0, this.#localBlocks, held), cached: new Set() };
    this.#lent = { free: new LowestFirst(this.#localBlocks, total, held), cached: new Set() };
  }

  /** Blocks that can be allocated. */
  get freeCount(): number {
    return this.localFreeCount + this.#lent.free.size + this.#lent.cached.size;
  }

  /** Of these, those that lie with every rank itself. */
  get localFreeCount(): number {
    return this.#local.free.size + this.#local.cached.size;
  }

  get usedCount(): number {
    return this.#references.size;
  }

  get used(): Iterable<number> {
    return this.#references.keys();
  }

  /** Held ones that lie on another rank. */
  get lentUsedCount(): number {
    const { free, cached } = this.#lent;
    return this.total - this.#localBlocks - free.size - cached.size;
  }

  get cachedCount(): number {
    return this.#local.cached.size + this.#lent.cached.size;
  }

  /** Cached blocks given away for other tokens, since the beginning. */
  get evicted(): number {
    return this.#evicted;
  }

  referencesOf(block: number): number {
    return this.#references.get(block) ?? 0;
  }

  /** Whether `fresh` blocks are left when the blocks of `shared` are held. */
  canAllocate(fresh: number, shared: readonly number[] = []): boolean {
    const revived = shared.filter((block) => this.#sideOf(block).cached.has(block)).length;
    return fresh <= this.freeCount - revived;
  }

  /** Throws when `canAllocate(count)` does not hold. */
  allocate(count: number): number[] {
    if (!this.canAllocate(count)) {
      throw new Error(`${count} KV blocks asked for, ${this.freeCount} free`);
    }
    return Array.from({ length: count }, () => {
      const block = this.#take();
      this.#references.set(block, 1);
      return block;
    });
  }

  isLent(block: number): boolean {
    return block >= this.#localBlocks;
  }

  /**
   * A local block in place of a lent one, to which its KV is to be moved: it says from now on what that said, to all of its `holders`. The
   * lent one is held once until the move is done. Throws when no local one is free, or when it has others.
   */
  recall(lent: number, holders: number): number {
    if (this.localFreeCount === 0 || this.referencesOf(lent) !== holders) {
      throw new Error(`KV block ${lent} cannot be recalled`);
    }
    const [block] = this.allocate(1) as [number];
    this.#table.relocate(lent, block);
    this.#references.set(block, holders);
    this.#references.set(lent, 1);
    return block;
  }

  /** One more holder of blocks whose content was found. */
  share(blocks: readonly number[]): void {
    for (const block of blocks) {
      if (!this.#table.has(block)) throw new Error(`KV block ${block} has no content to share`);
      this.#sideOf(block).cached.delete(block);
      this.#references.set(block, this.referencesOf(block) + 1);
    }
  }

  /** One holder less. Throws for a block that is not held: freed twice, it would get two owners. */
  free(blocks: readonly number[]): void {
    // From the end: a prefix serves more requests than what follows it, so it is to be evicted later.
    for (const block of blocks.toReversed()) {
      const references = this.referencesOf(block);
      if (references === 0) throw new Error(`KV block ${block} is not allocated`);
      if (references > 1) {
        this.#references.set(block, references - 1);
        continue;
      }
      this.#references.delete(block);
      const side = this.#sideOf(block);
      if (this.#table.has(block)) side.cached.add(block);
      else side.free.add(block);
    }
  }

  /** The block that holds this content, or null. It may be evicted unless it is shared at once. */
  find(content: BlockContent): PrefixEntry | null {
    return this.#table.find(content);
  }

  /** The held block is full and holds this content from now on; nothing is written to it any more. */
  remember(block: number, content: BlockContent): void {
    if (this.referencesOf(block) === 0) throw new Error(`KV block ${block} is not allocated`);
    this.#table.add(content, block);
  }

  hasContent(block: number): boolean {
    return this.#table.has(block);
  }

  /** Throws unless every block is in one state, and held exactly as often as `holders` name it. */
  checkIntegrity(holders: readonly (readonly number[])[]): void {
    const named = new Map<number, number>();
    for (const block of holders.flat()) named.set(block, (named.get(block) ?? 0) + 1);
    const wrong = [...named].filter(([block, count]) => this.referencesOf(block) !== count);
    if (wrong.length > 0 || named.size !== this.#references.size) {
      throw new Error(
        `KV blocks: ${named.size} are named by holders, ${this.#references.size} are held, ${wrong.length} not as often as named`,
      );
    }
    const cached = [...this.#local.cached, ...this.#lent.cached];
    const free = [...this.#local.free.values, ...this.#lent.free.values];
    const states = [...free, ...cached, ...this.#references.keys()];
    if (states.length !== this.total || new Set(states).size !== this.total) {
      throw new Error(`KV blocks: ${states.length} states of ${this.total} blocks`);
    }
    this.#table.checkIntegrity();
    const known = this.#table.blocks;
    const forgotten = cached.filter((block) => !known.has(block));
    const stale = free.filter((block) => known.has(block));
    if (forgotten.length + stale.length > 0) {
      throw new Error(
        `KV blocks: cached without content ${forgotten.join()}, free with content ${stale.join()}`,
      );
    }
  }

  #sideOf(block: number): Allocatable {
    return this.isLent(block) ? this.#lent : this.#local;
  }

  #take(): number {
    for (const { free, cached } of [this.#local, this.#lent]) {
      const block = free.take() ?? this.#evict(cached);
      if (block !== undefined) return block;
    }
    throw new Error('no KV block can be evicted');
  }

  /** undefined when there is none. */
  #evict(cached: Set<number>): number | undefined {
    const [block] = cached;
    if (block === undefined) return undefined;
    cached.delete(block);
    this.#table.remove(block);
    this.#evicted += 1;
    return block;
  }
}
