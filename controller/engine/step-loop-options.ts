/** What a step loop is given: the ranks of an epoch, and who hears of its steps. */
import type { Clock } from '../../proto/base/clock.ts';
import type { HelsError } from '../../proto/domain/errors.ts';
import type { PrefixHash } from '../scheduler/prefix-table.ts';
import type { SchedulerLimits } from '../scheduler/scheduler.ts';
import type { EpochRanks } from './step-exchange.ts';
import type { StepMeasurement } from './step-measurement.ts';

export interface StepObserver {
  step(measurement: StepMeasurement): void;
  /** From arrival to the first step that names the request. */
  started(queueSeconds: number): void;
  /** A sequence that gave way computes again, or is over. */
  resumed(waitSeconds: number): void;
  /** Another scheduler takes over now, and its counts begin anew. */
  countsEnd(): void;
}

/** One epoch: its ranks, and what they hold. */
export interface EpochOptions extends EpochRanks {
  limits: SchedulerLimits;
}

export interface StepLoopOptions extends EpochOptions {
  term: number;
  /** null: no prefix cache. What it knows goes with the KV of the epoch. */
  prefixHash: PrefixHash | null;
  clock: Clock;
  observer: StepObserver;
  /** All is over; told once, after every request has been. */
  onFailed(error: HelsError): void;
}
