/** A value as the store should have it: a store that is away for a moment is asked again. */
import type { Logger } from '../../proto/base/log.ts';

export class Remembered<Value> {
  readonly #write: (value: Value) => Promise<void>;
  readonly #what: string;
  readonly #log: Logger;
  /** Not in the store yet; null: it has all. */
  #unsaved: { value: Value } | null = null;
  #saving: Promise<void> | null = null;

  /** `what`: for people, as in "the deployment could not be stored". */
  constructor(write: (value: Value) => Promise<void>, what: string, log: Logger) {
    this.#write = write;
    this.#what = what;
    this.#log = log;
  }

  save(value: Value): void {
    this.#unsaved = { value };
    this.tick();
  }

  get isStored(): boolean {
    return this.#unsaved === null;
  }

  /** Resolves when the store has the value, or has failed to take it; it is asked again later then. */
  async settled(): Promise<void> {
    while (this.#saving !== null) await this.#saving;
  }

  /** Tries once more what could not be stored. */
  tick(): void {
    const wanted = this.#unsaved;
    if (wanted === null || this.#saving !== null) return;
    this.#saving = this.#write(wanted.value)
      .then(
        () => {
          if (this.#unsaved === wanted) this.#unsaved = null;
        },
        (error: unknown) => {
          this.#log.error(`${this.#what} could not be stored`, { error: String(error) });
        },
      )
      .finally(() => {
        this.#saving = null;
        // Something newer came while this was on its way.
        if (this.#unsaved !== null && this.#unsaved !== wanted) this.tick();
      });
  }
}
