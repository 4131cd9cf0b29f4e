import type { IncrementalDetokenizer } from '../tokenizer/incremental-detokenizer.ts';
import { StopMatcher } from '../tokenizer/stop-matcher.ts';

/**
 * The text of one answer, token by token: whole characters, cut before a stop string. Given the same tokens it gives the same pieces,
 * so a resumed answer replays what the client has and goes on exactly there.
 */
export class AnswerText {
  readonly #detokenizer: IncrementalDetokenizer;
  readonly #matcher: StopMatcher;
  readonly #minTokens: number;
  #tokens = 0;
  #codePoints = 0;
  #stopped = false;

  /** What the first `minTokens` tokens say ends no stop string. */
  constructor(detokenizer: IncrementalDetokenizer, stop: readonly string[], minTokens: number) {
    this.#detokenizer = detokenizer;
    this.#matcher = new StopMatcher(stop);
    this.#minTokens = minTokens;
  }

  /** `offset`: where the token's own text begins, in code points of the whole text, that which a stop string holds back included. */
  push(tokenId: number): { text: string; stopped: boolean; offset: number } {
    this.#tokens += 1;
    const before = this.#codePoints;
    const piece = this.#detokenizer.push(tokenId);
    return { ...this.#match(piece), offset: before + this.#detokenizer.brokenBefore };
  }

  /** What was held back, when no more tokens come; nothing after a stop string. */
  flush(): { text: string; stopped: boolean } {
    if (this.#stopped) return { text: '', stopped: true };
    const { text, stopped } = this.#match(this.#detokenizer.flush());
    return { text: stopped ? text : text + this.#matcher.flush(), stopped };
  }

  #match(piece: string): { text: string; stopped: boolean } {
    this.#codePoints += [...piece].length;
    const match = this.#matcher.push(piece, this.#tokens > this.#minTokens);
    this.#stopped = match.stopped;
    return match;
  }
}
