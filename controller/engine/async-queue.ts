import { HelsError } from '../../proto/domain/errors.ts';

type Read<T> = IteratorResult<T, undefined>;
const over: Read<never> = { done: true, value: undefined };

/**
 * A bounded queue between the step loop and one reader, who iterates over it. Ends after `end`, and when the reader leaves. An iterator itself, without
 * a generator around it: every token of every answer passes here.
 */
export class AsyncQueue<T> implements AsyncIterableIterator<T, undefined> {
  readonly #capacity: number;
  readonly #onLeft: () => void;
  readonly #items: T[] = [];
  #ended = false;
  /** The reader waits; there are no items then. */
  #wake: ((read: Read<T>) => void) | null = null;

  /** `onLeft`: the reader stopped before the end. */
  constructor(capacity: number, onLeft: () => void) {
    this.#capacity = capacity;
    this.#onLeft = onLeft;
  }

  /** Throws overloaded when the reader is `capacity` items behind. Pushes after `end` are dropped. */
  push(item: T): void {
    if (this.#ended) return;
    if (this.#wake !== null) {
      this.#answer({ done: false, value: item });
      return;
    }
    if (this.#items.length >= this.#capacity) {
      throw new HelsError('overloaded', `the reader is ${this.#capacity} events behind`);
    }
    this.#items.push(item);
  }

  end(): void {
    this.#ended = true;
    this.#answer(over);
  }

  /** One at a time. */
  next(): Promise<Read<T>> {
    const item = this.#items.shift();
    if (item !== undefined) return Promise.resolve({ done: false, value: item });
    if (this.#ended) return Promise.resolve(over);
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  return(): Promise<Read<T>> {
    this.#items.length = 0;
    this.end();
    this.#onLeft();
    return Promise.resolve(over);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #answer(read: Read<T>): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.(read);
  }
}
