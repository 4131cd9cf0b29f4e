export interface StopMatch {
  /** Text that can be given out now. */
  text: string;
  /** A stop string ended here; nothing follows. */
  stopped: boolean;
}

/**
 * Ends a text before the first stop string, also when it arrives in pieces. The result does not depend on how the text was cut: of
 * several matches the one that ends first counts, and of those the longest.
 */
export class StopMatcher {
  readonly #stops: readonly string[];
  readonly #lengthMax: number;
  /** The end of the text so far that could still become a stop string. */
  #held = '';

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== '');
    this.#lengthMax = Math.max(0, ...this.#stops.map((stop) => stop.length));
  }

  /** `mayEnd`: whether a stop string that ends in this piece counts. */
  push(piece: string, mayEnd = true): StopMatch {
    if (this.#lengthMax === 0) return { text: piece, stopped: false };
    const text = this.#held + piece;
    const begin = mayEnd ? this.#firstMatch(text) : null;
    if (begin !== null) {
      this.#held = '';
      return { text: text.slice(0, begin), stopped: true };
    }
    const heldLength = this.#partialMatchLength(text);
    this.#held = text.slice(text.length - heldLength);
    return { text: text.slice(0, text.length - heldLength), stopped: false };
  }

  /** The text held back, when no more comes. */
  flush(): string {
    const text = this.#held;
    this.#held = '';
    return text;
  }

  /** Where the match that counts begins, of those that end behind what was held back; null without one. */
  #firstMatch(text: string): number | null {
    let found: { begin: number; end: number } | null = null;
    for (const stop of this.#stops) {
      const begin = text.indexOf(stop, Math.max(0, this.#held.length + 1 - stop.length));
      if (begin < 0) continue;
      const end = begin + stop.length;
      if (found === null || end < found.end || (end === found.end && begin < found.begin)) {
        found = { begin, end };
      }
    }
    return found?.begin ?? null;
  }

  /** Length of the longest end of `text` that a stop string begins with. */
  #partialMatchLength(text: string): number {
    for (let length = Math.min(this.#lengthMax - 1, text.length); length > 0; length -= 1) {
      const end = text.slice(text.length - length);
      if (this.#stops.some((stop) => stop.length > length && stop.startsWith(end))) return length;
    }
    return 0;
  }
}
