import type { DeployProgress } from '../../proto/gen/hels/v1/DeployProgress.ts';

/** Progress beyond this is dropped, oldest first: a slow reader sees where it is, not every step of the way. */
const progressQueueMax = 256;

type PhaseEvent<Report> = { progress: DeployProgress } | { ready: Report };

/** What a long operation reports, for the one caller that waits for it. Ends with `ready` or an error. */
export class PhaseChannel<Report> implements AsyncIterable<PhaseEvent<Report>> {
  #queue: PhaseEvent<Report>[] = [];
  #outcome: { report: Report } | { error: unknown } | null = null;
  #wake: () => void = () => {};

  progress(phase: string, message: string, fraction: number): void {
    this.#queue.push({ progress: { phase, message, fraction } });
    if (this.#queue.length > progressQueueMax) this.#queue.shift();
    this.#wake();
  }

  ready(report: Report): void {
    this.#outcome ??= { report };
    this.#wake();
  }

  failed(error: unknown): void {
    this.#outcome ??= { error };
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<PhaseEvent<Report>, void, undefined> {
    for (;;) {
      const next = this.#queue.shift();
      if (next !== undefined) yield next;
      else if (this.#outcome !== null) break;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
    if ('error' in this.#outcome) throw this.#outcome.error;
    yield { ready: this.#outcome.report };
  }
}
