interface Entry {
  readonly atSeconds: number;
  readonly action: () => void;
}

/** What is to happen, by time; entries of one time in the order in which they were made. For few entries: each is inserted in place. */
export class Timeline {
  readonly #entries: Entry[] = [];

  get nextSeconds(): number {
    return this.#entries[0]?.atSeconds ?? Number.POSITIVE_INFINITY;
  }

  at(atSeconds: number, action: () => void): void {
    const later = this.#entries.findIndex((entry) => entry.atSeconds > atSeconds);
    this.#entries.splice(later < 0 ? this.#entries.length : later, 0, { atSeconds, action });
  }

  /** Runs what is due, also what becomes due on the way. */
  runUntil(seconds: number): void {
    while (this.nextSeconds <= seconds) this.#entries.shift()?.action();
  }
}
