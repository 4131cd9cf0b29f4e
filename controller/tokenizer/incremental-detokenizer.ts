const replacement = '\uFFFD';

/** A UTF-8 character has at most four bytes and a token at least one: it is of no more tokens than this. */
const unfinishedTokensMax = 4;

/** A decoder's text of a token depends on few before it (a leading space is dropped): so many of the prompt are looked back at. */
const contextTokens = 4;

/** How many tokens of a prompt's end are looked at: the context, a character it may begin in, one it may end in. */
const promptTailTokensMax = contextTokens + 2 * (unfinishedTokensMax - 1);

export type Decode = (tokenIds: number[]) => string;
/** UTF-8 of one token, which may begin and end inside characters. */
export type BytesOf = (tokenId: number) => Uint8Array;

/** Where a character is unfinished, the one with the most bytes lacks one at least. */
const unfinishedBytesMax = 3;

/**
 * Text from tokens as they come. A token can end inside a character; its bytes are held back until the character is whole or cannot be
 * any more. Its text is then U+FFFD, which may as well be what the model says: the bytes tell. Decoders look at neighbours (a leading space is dropped, runs of byte tokens are read together), so each new token is
 * decoded together with those of the previous advance:
 *
 *     tokens   [ ... | given out before | given out or held back )
 *                    ^ prefix           ^ read                  ^ length
 *
 * An answer that continues a prompt begins with the prompt's last tokens as given out: they give its first token neighbours and, when
 * the prompt ends inside a character, that character its first bytes. Their own text never comes out.
 */
export class IncrementalDetokenizer {
  readonly #decode: Decode;
  readonly #bytesOf: BytesOf;
  readonly #hasText: (tokenId: number) => boolean;
  readonly #tokenIds: number[];
  #prefix = 0;
  #read: number;
  /** Text of [prefix, length) that was given out. */
  #delivered: string;
  /** Text of the prompt's tokens with their unfinished character as U+FFFD, in case that the answer does not finish it. */
  #broken: string;
  /** The last bytes, as many as an unfinished character can have. */
  #end: readonly number[];
  #brokenBefore = 0;

  /**
   * `decode` and `bytesOf` get ids that have text, never an empty list. `hasText`: the others, special tokens mostly, are passed over: the words on
   * both sides are neighbours. `prompt`: the ids before the answer, or the last of them; none: the answer is a text of its own.
   */
  constructor(
    decode: Decode,
    bytesOf: BytesOf,
    prompt: readonly number[] = [],
    hasText: (tokenId: number) => boolean = () => true,
  ) {
    this.#decode = decode;
    this.#bytesOf = bytesOf;
    this.#hasText = hasText;
    const endOf = (ids: readonly number[]) =>
      ids.flatMap((id) => [...bytesOf(id)]).slice(-unfinishedBytesMax);
    const tail = promptTail(decode, endOf, lastWithText(prompt, hasText));
    const { tokenIds, wholeTokens, text } = tail;
    this.#tokenIds = tokenIds;
    this.#read = wholeTokens;
    this.#delivered = text;
    this.#broken = wholeTokens < tokenIds.length ? decode(tokenIds) : text;
    this.#end = endOf(tokenIds);
  }

  /** Code points that the last token's piece begins with and that are of the tokens before: of a character which it did not go on with. */
  get brokenBefore(): number {
    return this.#brokenBefore;
  }

  /** The text that this token completes: often its own, empty inside a character. */
  push(tokenId: number): string {
    this.#brokenBefore = 0;
    if (!this.#hasText(tokenId)) return '';
    const bytes = this.#bytesOf(tokenId);
    const breaks = endsInCharacter(this.#end) && !goesOn(this.#end, bytes[0]);
    this.#tokenIds.push(tokenId);
    this.#end = [...this.#end, ...bytes].slice(-unfinishedBytesMax);
    const text = this.#decode(this.#tokenIds.slice(this.#prefix));
    const whole = withoutUnfinished(text, this.#end);
    const piece = whole === text ? this.#advance(text) : this.#deliverWhole(whole);
    if (breaks && piece.startsWith(replacement)) this.#brokenBefore = 1;
    return piece;
  }

  /** The rest when no more tokens come; an unfinished character shows as U+FFFD. */
  flush(): string {
    if (this.#read === this.#tokenIds.length) return '';
    return this.#advance(this.#decode(this.#tokenIds.slice(this.#prefix)));
  }

  /** Gives out what stands before an unfinished character. */
  #deliverWhole(whole: string): string {
    const given = this.#givenOf(whole);
    if (given === null || whole.length <= given.length) return '';
    // An answer may go on so, token after token: what stands before this one is context now.
    this.#prefix = this.#read;
    this.#read = this.#tokenIds.length - 1;
    const text = this.#decode(this.#tokenIds.slice(this.#prefix));
    this.#delivered = withoutUnfinished(text, this.#end);
    this.#broken = this.#delivered;
    return whole.slice(given.length);
  }

  #advance(text: string): string {
    // A run of byte tokens that turned out not to be UTF-8 is decoded anew as a whole; what was given out of it stays given out.
    const given = this.#givenOf(text);
    const piece =
      given === null ? this.#decode(this.#tokenIds.slice(this.#read)) : text.slice(given.length);
    this.#prefix = this.#read;
    this.#read = this.#tokenIds.length;
    this.#delivered = this.#decode(this.#tokenIds.slice(this.#prefix));
    this.#broken = this.#delivered;
    return piece;
  }

  /** What `text` begins with that must not come again; null when it does not go on with what was given out. */
  #givenOf(text: string): string | null {
    if (text.startsWith(this.#broken)) return this.#broken;
    return text.startsWith(this.#delivered) ? this.#delivered : null;
  }
}

/** What the second byte of a character may be, where that is less than 0x80 to 0xbf. */
const secondBytes: ReadonlyMap<number, readonly [number, number]> = new Map([
  [0xe0, [0xa0, 0xbf]],
  [0xed, [0x80, 0x9f]],
  [0xf0, [0x90, 0xbf]],
  [0xf4, [0x80, 0x8f]],
]);

/** Of the last byte that can begin a character; -1: there is none. */
const leadIndexOf = (bytes: readonly number[]) =>
  bytes.findLastIndex((byte) => byte < 0x80 || byte >= 0xc0);

/** Whether these bytes end with the beginning of a character of UTF-8: with more of them it can still become one. */
function endsInCharacter(bytes: readonly number[]): boolean {
  const first = leadIndexOf(bytes);
  const [lead = 0, second] = bytes.slice(Math.max(0, first));
  if (lead < 0xc2 || lead > 0xf4) return false;
  const length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (bytes.length - first >= length) return false;
  const [least, most] = secondBytes.get(lead) ?? [0x80, 0xbf];
  return second === undefined || (second >= least && second <= most);
}

/** Whether `next` is of the character that these bytes end in. */
function goesOn(bytes: readonly number[], next = 0): boolean {
  const [lead = 0, second] = bytes.slice(leadIndexOf(bytes));
  const isSecond = second === undefined;
  const [least, most] = (isSecond ? secondBytes.get(lead) : undefined) ?? [0x80, 0xbf];
  return next >= least && next <= most;
}

function lastWithText(prompt: readonly number[], hasText: (tokenId: number) => boolean): number[] {
  const tail: number[] = [];
  for (let i = prompt.length - 1; i >= 0 && tail.length < promptTailTokensMax; i -= 1) {
    const tokenId = prompt[i];
    if (tokenId !== undefined && hasText(tokenId)) tail.push(tokenId);
  }
  return tail.reverse();
}

interface PromptTail {
  tokenIds: number[];
  /** Of these, so many are whole characters and nothing else; all when no character is unfinished. */
  wholeTokens: number;
  /** Theirs, up to that character. */
  text: string;
}

/**
 * Cut so that it begins with a character and, without the tokens of an unfinished one, ends with one. Where tokens end one character and
 * begin the next, or the prompt itself is broken, there may be no such place.
 */
function promptTail(
  decode: Decode,
  endOf: (tokenIds: readonly number[]) => readonly number[],
  prompt: readonly number[],
): PromptTail {
  const textOf = (tokenIds: number[]) => (tokenIds.length === 0 ? '' : decode(tokenIds));
  const unfinishedMax = Math.min(unfinishedTokensMax - 1, prompt.length);
  for (let unfinished = 0; unfinished <= unfinishedMax; unfinished += 1) {
    const wholeEnd = prompt.length - unfinished;
    for (const begin of beginnings(wholeEnd)) {
      const text = textOf(prompt.slice(begin, wholeEnd));
      if (text.startsWith(replacement) || text.endsWith(replacement)) continue;
      const tokenIds = prompt.slice(begin);
      // The first token of an unfinished character may end another before.
      const all = withoutUnfinished(textOf(tokenIds), endOf(tokenIds));
      return { tokenIds, wholeTokens: wholeEnd - begin, text: all.startsWith(text) ? all : text };
    }
  }
  const tails = beginnings(prompt.length - unfinishedMax).map((begin) => prompt.slice(begin));
  const tokenIds =
    tails.find((tail) => !textOf(tail).startsWith(replacement)) ?? prompt.slice(-contextTokens);
  // What is broken at its beginning is whole in the prompt: only the character under way is to come.
  const text = withoutUnfinished(textOf(tokenIds), endOf(tokenIds));
  return { tokenIds, wholeTokens: 0, text };
}

/** Where to look for a beginning, given the end: a character has at most so many tokens. With less context where it must be. */
function beginnings(end: number): number[] {
  const more = Array.from({ length: unfinishedTokensMax }, (_, tokens) => contextTokens + tokens);
  const less = Array.from({ length: contextTokens - 1 }, (_, tokens) => contextTokens - 1 - tokens);
  return [...more, ...less].map((tokens) => Math.max(0, end - tokens));
}

/** `bytes`: the last of the text. An unfinished character shows as one U+FFFD; those before it are broken, or what tokens say. */
function withoutUnfinished(text: string, bytes: readonly number[]): string {
  return text.endsWith(replacement) && endsInCharacter(bytes) ? text.slice(0, -1) : text;
}
