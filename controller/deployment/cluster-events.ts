import type { Clock } from '../../proto/base/clock.ts';
import type { Logger } from '../../proto/base/log.ts';
import type { ClusterEvent } from '../../proto/gen/hels/v1/ClusterEvent.ts';

const eventsKept = 200;

/** What happened to the cluster lately, for `helsctl events`. */
export class ClusterEvents {
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #events: ClusterEvent[] = [];

  constructor(clock: Clock, log: Logger) {
    this.#clock = clock;
    this.#log = log;
  }

  /** The newest last. */
  list(): ClusterEvent[] {
    return [...this.#events];
  }

  /** One that the log does not have yet. `payBackSeconds`: of a new plan, when it is of use. */
  tell(kind: string, workerId: string, message: string, payBackSeconds = 0): void {
    this.#log.warn(kind, { workerId, message, payBackSeconds });
    this.record(kind, workerId, message, payBackSeconds);
  }

  record(kind: string, workerId: string, message: string, payBackSeconds = 0): void {
    const unixMs = Math.round(this.#clock.unixMs());
    this.#events.push({ unixMs, kind, workerId, message, payBackSeconds });
    if (this.#events.length > eventsKept) this.#events.shift();
  }
}
