/** Which workers a metric has series of, so that those of workers that have gone can go too: names may be new at each start. */
export class SeriesOfWorkers {
  readonly #workers = new Set<string>();

  add(worker: string): void {
    this.#workers.add(worker);
  }

  /** `registered`: workers whose series stay. */
  forgetGone(registered: readonly string[], remove: (worker: string) => void): void {
    const there = new Set(registered);
    for (const worker of this.#workers) {
      if (there.has(worker)) continue;
      this.#workers.delete(worker);
      remove(worker);
    }
  }
}
