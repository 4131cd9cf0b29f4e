import type { DeployEvent } from '../../proto/gen/hels/v1/DeployEvent.ts';
import type { PlanReport } from '../../proto/gen/hels/v1/PlanReport.ts';

/** Progress beyond this is dropped, oldest first: a slow reader sees where it is, not every step of the way. */
const progressQueueMax = 256;

/** What a deployment reports, for the one caller that waits for it. Ends with `ready` or an error. */
export class PhaseChannel implements AsyncIterable<DeployEvent> {
  #queue: DeployEvent[] = [];
  #outcome: { report: PlanReport } | { error: unknown } | null = null;
  #wake: () => void = () => {};

  progress(phase: string, message: string, fraction: number): void {
    this.#queue.push({ progress: { phase, message, fraction } });
    if (this.#queue.length > progressQueueMax) this.#queue.shift();
    this.#wake();
  }

  ready(report: PlanReport): void {
    this.#outcome ??= { report };
    this.#wake();
  }

  failed(error: unknown): void {
    this.#outcome ??= { error };
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<DeployEvent, void, undefined> {
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
