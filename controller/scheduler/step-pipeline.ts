import type { SampledResult, Scheduler, SchedulerEvent, StepPlan } from './scheduler.ts';

/** One computes on the ranks while the next is on its way to them. */
const stepsInFlightMax = 2;

/** How many steps may be under way at once. Pure; whoever drives it sends the steps and brings their results in order. */
export class StepPipeline {
  readonly #scheduler: Scheduler;
  #inFlight = 0;

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  /** A step to send now; null when enough are under way, or there is nothing to compute until a result or a request comes. */
  next(): StepPlan | null {
    if (this.#inFlight >= stepsInFlightMax) return null;
    const plan = this.#scheduler.schedule();
    if (plan !== null) this.#inFlight += 1;
    return plan;
  }

  /** Every rank has answered the oldest step under way. */
  answer<Sampled extends SampledResult>(
    step: number,
    sampled: readonly Sampled[],
  ): SchedulerEvent<Sampled>[] {
    this.#inFlight -= 1;
    return this.#scheduler.apply(step, sampled);
  }
}
