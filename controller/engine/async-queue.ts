import { HelsError } from '../../proto/domain/errors.ts';

/** A bounded queue between the step loop and one reader. Ends after `end`. */
export class AsyncQueue<T> {
  readonly #capacity: number;
  readonly #items: T[] = [];
  #ended = false;
  #wake: (() => void) | null = null;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** Throws overloaded when the reader is `capacity` items behind. Pushes after `end` are dropped. */
  push(item: T): void {
    if (this.#ended) return;
    if (this.#items.length >= this.#capacity) {
      throw new HelsError('overloaded', `the reader is ${this.#capacity} events behind`);
    }
    this.#items.push(item);
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  /** One reader at a time. */
  async *read(): AsyncGenerator<T, void, undefined> {
    for (;;) {
      const item = this.#items.shift();
      if (item !== undefined) {
        yield item;
        continue;
      }
      if (this.#ended) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = null;
    }
  }
}
