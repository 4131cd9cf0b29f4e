import type { IncrementalDetokenizer } from '../tokenizer/incremental-detokenizer.ts';
import { StopMatcher } from '../tokenizer/stop-matcher.ts';

/**
 * The text of one answer, token by token: whole characters, cut before a stop string. Given the same tokens it gives the same pieces,
 * so a resumed answer replays what the client has and goes on exactly there.
 */
export class AnswerText {
  readonly #detokenizer: IncrementalDetokenizer;
  readonly #matcher: StopMatcher;

  constructor(detokenizer: IncrementalDetokenizer, stop: readonly string[]) {
    this.#detokenizer = detokenizer;
    this.#matcher = new StopMatcher(stop);
  }

  push(tokenId: number): { text: string; stopped: boolean } {
    return this.#matcher.push(this.#detokenizer.push(tokenId));
  }

  /** What was held back, when no more tokens come. */
  flush(): { text: string; stopped: boolean } {
    const { text, stopped } = this.#matcher.push(this.#detokenizer.flush());
    return { text: stopped ? text : text + this.#matcher.flush(), stopped };
  }
}
