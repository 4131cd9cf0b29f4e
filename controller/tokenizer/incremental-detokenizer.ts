const replacement = '\uFFFD';

/** A UTF-8 character has at most four bytes and a token at least one: more tokens than this without a character are not one under way. */
const unfinishedTokensMax = 4;

export type Decode = (tokenIds: number[]) => string;

/**
 * Text from tokens as they come. A token can end inside a character; its bytes are held back until the character is whole or cannot be
 * any more. Decoders look at neighbours (a leading space is dropped, runs of byte tokens are read together), so each new token is
 * decoded together with those of the previous advance:
 *
 *     tokens   [ ... | given out before | given out or held back )
 *                    ^ prefix           ^ read                  ^ length
 */
export class IncrementalDetokenizer {
  readonly #decode: Decode;
  readonly #tokenIds: number[] = [];
  #prefix = 0;
  #read = 0;
  /** Text of [prefix, length) that was given out. */
  #delivered = '';
  #unfinishedTokens = 0;

  /** `decode` gets ids it can decode, never an empty list. */
  constructor(decode: Decode) {
    this.#decode = decode;
  }

  /** The text that this token completes: often its own, empty inside a character. */
  push(tokenId: number): string {
    this.#tokenIds.push(tokenId);
    const text = this.#decode(this.#tokenIds.slice(this.#prefix));
    if (text.endsWith(replacement)) return this.#deliverWhole(text);
    return this.#advance(text);
  }

  /** The rest when no more tokens come; an unfinished character shows as U+FFFD. */
  flush(): string {
    if (this.#read === this.#tokenIds.length) return '';
    return this.#advance(this.#decode(this.#tokenIds.slice(this.#prefix)));
  }

  /** Gives out what stands before an unfinished character. */
  #deliverWhole(text: string): string {
    let end = text.length;
    while (end > 0 && text[end - 1] === replacement) end -= 1;
    const whole = text.slice(0, end);
    if (whole.length > this.#delivered.length && whole.startsWith(this.#delivered)) {
      const piece = whole.slice(this.#delivered.length);
      this.#delivered = whole;
      this.#unfinishedTokens = 1;
      return piece;
    }
    this.#unfinishedTokens += 1;
    return this.#unfinishedTokens > unfinishedTokensMax ? this.#advance(text) : '';
  }

  #advance(text: string): string {
    // A run of byte tokens that turned out not to be UTF-8 is decoded anew as a whole; what was given out of it stays given out.
    const piece = text.startsWith(this.#delivered)
      ? text.slice(this.#delivered.length)
      : this.#decode(this.#tokenIds.slice(this.#read));
    this.#prefix = this.#read;
    this.#read = this.#tokenIds.length;
    this.#delivered = this.#decode(this.#tokenIds.slice(this.#prefix));
    this.#unfinishedTokens = 0;
    return piece;
  }
}
