/** Numbers that are given away lowest first: a binary heap. */
export class LowestFirst {
  /** Parent of entry i at (i - 1) >> 1, never above its children. */
  readonly #heap: number[];

  /** Holds [begin, end) without those of `except`. */
  constructor(begin: number, end: number, except: ReadonlySet<number> = new Set()) {
    const all = Array.from({ length: end - begin }, (_, index) => begin + index);
    this.#heap = all.filter((value) => !except.has(value));
  }

  get size(): number {
    return this.#heap.length;
  }

  get values(): readonly number[] {
    return this.#heap;
  }

  /** undefined when there is none. */
  take(): number | undefined {
    const lowest = this.#heap[0];
    const last = this.#heap.pop();
    if (lowest === undefined || last === undefined) return undefined;
    if (this.#heap.length > 0) this.#sink(last);
    return lowest;
  }

  add(value: number): void {
    let place = this.#heap.push(value) - 1;
    while (place > 0) {
      const above = (place - 1) >> 1;
      const parent = this.#heap[above] as number;
      if (parent <= value) break;
      this.#heap[place] = parent;
      place = above;
    }
    this.#heap[place] = value;
  }

  /** Puts `value` in the place of the root. */
  #sink(value: number): void {
    let place = 0;
    for (;;) {
      let below = 2 * place + 1;
      const [left, right] = [this.#heap[below], this.#heap[below + 1]];
      if (left === undefined) break;
      if (right !== undefined && right < left) below += 1;
      const child = this.#heap[below] as number;
      if (child >= value) break;
      this.#heap[place] = child;
      place = below;
    }
    this.#heap[place] = value;
  }
}
