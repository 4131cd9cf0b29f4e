/**
 * Lets a sequence start with KV that another one has computed. KV of a position depends on the tokens up to it and on nothing else (not
 * on the batch or the chunks: exact numerics), so a full block may be read by every sequence that begins with the same tokens.
 *
 *   tokens            [0 ............................................... length)
 *   from the cache    [0 .. computed)                                             whole blocks; adopted before a chunk is taken
 *   at most           [0 ....................................... last whole block before length - 1)
 *
 * The last token is always computed, because sampling needs its logits. Only full blocks are shared; a block that is still written has
 * one owner.
 */
import type { BlockPool } from './block-pool.ts';
import type { BlockContent, PrefixHash } from './prefix-table.ts';
import type { Sequence } from './sequence.ts';

export class PrefixCache {
  readonly #pool: BlockPool;
  readonly #blockTokens: number;
  /** null: the cache is off. */
  readonly #hash: PrefixHash | null;
  #queryTokens = 0;
  #hitTokens = 0;

  constructor(pool: BlockPool, blockTokens: number, hash: PrefixHash | null) {
    this.#pool = pool;
    this.#blockTokens = blockTokens;
    this.#hash = hash;
  }

  get counts() {
    return {
      prefixQueryTokens: this.#queryTokens,
      prefixHitTokens: this.#hitTokens,
      prefixEvictions: this.#pool.evicted,
    };
  }

  /** Blocks that hold the sequence's tokens from its first uncomputed one on. Changes nothing but what the sequence knows of itself. */
  matches(sequence: Sequence): number[] {
    const blocks: number[] = [];
    for (let index = this.#nextShared(sequence); index !== null; index += 1) {
      if (index >= this.#sharedMax(sequence)) break;
      const entry = this.#pool.find(this.#contentOf(sequence, index));
      if (entry === null) break;
      // The contents that follow are then compared in one step.
      sequence.contents[index] = entry.content;
      blocks.push(entry.block);
    }
    return blocks;
  }

  /** What was computed meanwhile takes the place of blocks of its own that no step has named yet. */
  adopt(sequence: Sequence): void {
    const found = this.matches(sequence);
    if (found.length === 0) return;
    const first = sequence.computed / this.#blockTokens;
    this.#pool.share(found);
    this.#pool.free(sequence.blocks.splice(first, found.length, ...found));
    this.adopted(sequence, found.length);
  }

  /** The next `blocks` blocks of its table need not be computed. What it had before and gave up is no find. */
  adopted(sequence: Sequence, blocks: number): void {
    const { computed, computedMost } = sequence;
    sequence.computed = computed + blocks * this.#blockTokens;
    sequence.computedMost = Math.max(computedMost, sequence.computed);
    sequence.cachedTokens += sequence.computedMost - Math.max(computedMost, computed);
  }

  /** Key of the block that the sequence would compute next, when another one may as well do it; else null. */
  nextKey(sequence: Sequence): string | null {
    const index = this.#nextShared(sequence);
    if (index === null || index >= this.#sharedMax(sequence)) return null;
    return this.#contentOf(sequence, index).key;
  }

  /** Keys of the blocks that become full when the sequence computes `count` more known tokens. */
  keysFilledBy(sequence: Sequence, count: number): string[] {
    if (!this.#uses(sequence)) return [];
    const first = Math.floor(sequence.computed / this.#blockTokens);
    const end = Math.floor((sequence.computed + count) / this.#blockTokens);
    const filled = Array.from({ length: end - first }, (_, offset) => first + offset);
    return filled.map((index) => this.#contentOf(sequence, index).key);
  }

  /** To be called when tokens of it were submitted or came back: the blocks that are full now can be found by others. */
  remember(sequence: Sequence): void {
    if (!this.#uses(sequence)) return;
    const known = Math.min(sequence.computed, sequence.tokens.length);
    // What is parked can be read by nobody.
    const full = Math.min(Math.floor(known / this.#blockTokens), sequence.blocks.length);
    for (; sequence.remembered < full; sequence.remembered += 1) {
      const block = sequence.blocks[sequence.remembered] as number;
      const content = this.#contentOf(sequence, sequence.remembered);
      if (!this.#pool.hasContent(block)) this.#pool.remember(block, content);
    }
  }

  /** A token of its answer came back: the first one says that its prompt was computed, under whatever epoch. */
  count(sequence: Sequence): void {
    if (sequence.promptCounted || !this.#uses(sequence)) return;
    sequence.promptCounted = true;
    this.#queryTokens += sequence.request.promptTokenIds.length;
    this.#hitTokens += sequence.cachedTokens;
  }

  #uses(sequence: Sequence): boolean {
    return this.#hash !== null && sequence.request.prefixCache !== null;
  }

  /** Index of the block that begins where computing goes on; null when none does or the cache is not to be used. */
  #nextShared(sequence: Sequence): number | null {
    if (!this.#uses(sequence) || sequence.computed % this.#blockTokens !== 0) return null;
    return sequence.computed / this.#blockTokens;
  }

  #sharedMax(sequence: Sequence): number {
    return Math.floor((sequence.tokens.length - 1) / this.#blockTokens);
  }

  /** Tokens of a sequence only grow, so a content once made stays true. */
  #contentOf(sequence: Sequence, index: number): BlockContent {
    const { contents } = sequence;
    const salt = sequence.request.prefixCache?.salt ?? '';
    while (contents.length <= index) {
      const parent = contents.at(-1) ?? null;
      const begin = contents.length * this.#blockTokens;
      const tokenIds = sequence.tokens.slice(begin, begin + this.#blockTokens);
      const key = this.#hash?.(parent?.key ?? null, salt, tokenIds) ?? '';
      contents.push({ key, parent, salt, tokenIds });
    }
    return contents[index] as BlockContent;
  }
}
