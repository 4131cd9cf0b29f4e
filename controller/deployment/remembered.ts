/** A value as the store should have it: a store that is away for a moment is asked again. */
import { backoffDelayMs } from '../../proto/base/backoff.ts';
import type { Clock } from '../../proto/base/clock.ts';
import type { Logger } from '../../proto/base/log.ts';
import { type HelsError, toHelsError } from '../../proto/domain/errors.ts';

/** Nobody else writes these values: there are no attempts to spread. */
const noChance = 1;

export interface RememberedOptions {
  clock: Pick<Clock, 'nowMs'>;
  log: Pick<Logger, 'info' | 'error'>;
}

export class Remembered<Value> {
  readonly #write: (value: Value) => Promise<void>;
  readonly #what: string;
  readonly #options: RememberedOptions;
  /** Not in the store yet; null: it has all. */
  #unsaved: { value: Value } | null = null;
  #saving: Promise<void> | null = null;
  /** Attempts since one last succeeded, and why the last of them failed. */
  #failed: { attempts: number; error: HelsError; retryAtMs: number } | null = null;

  /** `what`: for people, as in "the deployment could not be stored". */
  constructor(
    write: (value: Value) => Promise<void>,
    what: string,
    { clock, log }: RememberedOptions,
  ) {
    this.#write = write;
    this.#what = what;
    this.#options = { clock, log };
  }

  save(value: Value): void {
    this.#unsaved = { value };
    this.#try();
  }

  /** Why the store has not taken the value yet; null when it has, and before it has answered. */
  get failure(): HelsError | null {
    return this.#unsaved === null ? null : (this.#failed?.error ?? null);
  }

  /** Resolves when the store has the value, or has failed to take it, to why; it is asked again later then. */
  async settled(): Promise<HelsError | null> {
    while (this.#saving !== null) await this.#saving;
    return this.failure;
  }

  /** Tries once more what could not be stored, after a while that grows with each attempt. */
  tick(): void {
    const { clock } = this.#options;
    if (this.#failed === null || clock.nowMs() >= this.#failed.retryAtMs) this.#try();
  }

  #try(): void {
    const wanted = this.#unsaved;
    if (wanted === null || this.#saving !== null) return;
    this.#saving = this.#write(wanted.value)
      .then(
        () => {
          if (this.#unsaved === wanted) this.#unsaved = null;
          this.#stored();
        },
        (error: unknown) => this.#notStored(error),
      )
      .finally(() => {
        this.#saving = null;
        // Something newer came while this was on its way.
        if (this.#unsaved !== null && this.#unsaved !== wanted) this.#try();
      });
  }

  #stored(): void {
    if (this.#failed !== null) this.#options.log.info(`${this.#what} could be stored again`);
    this.#failed = null;
  }

  #notStored(error: unknown): void {
    const { clock, log } = this.#options;
    const attempts = (this.#failed?.attempts ?? 0) + 1;
    // A full disk may stay so for days: once, not once per attempt.
    if (attempts === 1) log.error(`${this.#what} could not be stored`, { error: String(error) });
    const retryAtMs = clock.nowMs() + backoffDelayMs(attempts - 1, noChance);
    this.#failed = { attempts, error: toHelsError(error), retryAtMs };
  }
}
