/** A device that gets slower while it serves, as one that throttles in heat: a real process, stopped for a share of the time. */
export class Throttle {
  readonly #processId: number;
  readonly #timers: NodeJS.Timeout[] = [];

  /** Runs `share` (0 to 1) of each period. Much shorter than a step, a period slows every step alike. */
  constructor(processId: number, share: number, periodMs: number) {
    this.#processId = processId;
    this.#timers.push(
      setInterval(() => {
        this.#signal('SIGSTOP');
        this.#timers[1] = setTimeout(() => this.#signal('SIGCONT'), (1 - share) * periodMs);
      }, periodMs),
    );
  }

  end(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#signal('SIGCONT');
  }

  #signal(name: 'SIGSTOP' | 'SIGCONT'): void {
    try {
      process.kill(this.#processId, name);
    } catch {
      // It ended; who watches it tells so.
    }
  }
}
