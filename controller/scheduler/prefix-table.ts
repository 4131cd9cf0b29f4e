/**
 * Which KV block holds which tokens. A full block is known by its content: its own tokens, all tokens before it, and the salt under
 * which they may be shared. The key is a hash and only leads to an entry; what is found is compared token by token, so a collision
 * costs a hit and never gives foreign KV.
 */

/** `parent`: the key of the block before, null for the first. Returns the key of the block with `tokenIds`. */
export type PrefixHash = (
  parent: string | null,
  salt: string,
  tokenIds: readonly number[],
) => string;

export interface BlockContent {
  readonly key: string;
  /** Of the block before; null for the first. */
  readonly parent: BlockContent | null;
  readonly salt: string;
  readonly tokenIds: readonly number[];
}

export interface PrefixEntry {
  readonly content: BlockContent;
  readonly block: number;
}

function sameTokens(one: readonly number[], other: readonly number[]): boolean {
  return one.length === other.length && one.every((token, index) => token === other[index]);
}

/** Ends at the first block that both share, which is the parent when `one` was made from contents found here. */
function sameContent(one: BlockContent, other: BlockContent): boolean {
  let left: BlockContent | null = one;
  let right: BlockContent | null = other;
  while (left !== right) {
    if (left === null || right === null) return false;
    if (left.salt !== right.salt || !sameTokens(left.tokenIds, right.tokenIds)) return false;
    left = left.parent;
    right = right.parent;
  }
  return true;
}

export class PrefixTable {
  readonly #entries = new Map<string, PrefixEntry>();
  readonly #byBlock = new Map<number, PrefixEntry>();

  get blocks(): ReadonlySet<number> {
    return new Set(this.#byBlock.keys());
  }

  has(block: number): boolean {
    return this.#byBlock.has(block);
  }

  find(content: BlockContent): PrefixEntry | null {
    const entry = this.#entries.get(content.key);
    return entry !== undefined && sameContent(entry.content, content) ? entry : null;
  }

  /** Does nothing when another block has this key already. */
  add(content: BlockContent, block: number): void {
    if (this.#entries.has(content.key)) return;
    if (this.#byBlock.has(block)) throw new Error(`KV block ${block} has a content already`);
    const entry = { content, block };
    this.#entries.set(content.key, entry);
    this.#byBlock.set(block, entry);
  }

  remove(block: number): void {
    const entry = this.#byBlock.get(block);
    if (entry === undefined) throw new Error(`KV block ${block} has no content`);
    this.#byBlock.delete(block);
    this.#entries.delete(entry.content.key);
  }

  /** What `from` holds, if that is known, `to` holds instead. */
  relocate(from: number, to: number): void {
    const entry = this.#byBlock.get(from);
    if (entry === undefined) return;
    this.remove(from);
    this.add(entry.content, to);
  }

  /** Throws unless each key leads to one block and back. */
  checkIntegrity(): void {
    const lost = [...this.#byBlock].filter(
      ([block, entry]) => entry.block !== block || this.#entries.get(entry.content.key) !== entry,
    );
    if (lost.length > 0 || this.#entries.size !== this.#byBlock.size) {
      throw new Error(
        `prefix table: ${this.#entries.size} keys, ${this.#byBlock.size} blocks, ${lost.length} lost`,
      );
    }
  }
}
