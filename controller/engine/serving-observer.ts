/** What the steps of a group say: kept while it warms up, told to metrics and predictions while it serves. */

import type { PredictionTracker } from '../deployment/prediction-tracker.ts';
import type { ServingMetrics } from '../metrics/serving-metrics.ts';
import type { Scheduler } from '../scheduler/scheduler.ts';
import { EpochProof } from './epoch-proof.ts';
import type { KvPathObserver } from './kv-path-observer.ts';
import type { StepObserver } from './step-loop-options.ts';
import type { StepMeasurement } from './step-measurement.ts';

type Counts = Scheduler['counts'];
type Counted =
  | 'preempted'
  | 'prefixQueryTokens'
  | 'prefixHitTokens'
  | 'prefixEvictions'
  | 'computedTokens'
  | 'recomputedTokens'
  | 'droppedTokens'
  | 'droppedByChoiceTokens';

const nothingTold: Pick<Counts, Counted> = {
  preempted: 0,
  prefixQueryTokens: 0,
  prefixHitTokens: 0,
  prefixEvictions: 0,
  computedTokens: 0,
  recomputedTokens: 0,
  droppedTokens: 0,
  droppedByChoiceTokens: 0,
};
const recentMax = 64;

export class ServingObserver implements StepObserver {
  /** Of the warm-up. */
  readonly measurements: StepMeasurement[] = [];
  warming = true;
  readonly proof = new EpochProof();
  readonly #metrics: ServingMetrics;
  readonly #tracker: PredictionTracker;
  readonly #counts: () => Counts;
  /** The last decode steps of the epoch, the newest last. */
  recentDecodes: StepMeasurement[] = [];
  #workerIds: readonly string[];
  #kvPaths: Pick<KvPathObserver, 'step'>;
  #told: Pick<Counts, Counted> = nothingTold;
  #unasked = false;

  /** `counts` of the group's scheduler; `workerIds` by rank. */
  constructor(
    metrics: ServingMetrics,
    tracker: PredictionTracker,
    counts: () => Counts,
    workerIds: readonly string[],
    kvPaths: Pick<KvPathObserver, 'step'>,
  ) {
    this.#metrics = metrics;
    this.#tracker = tracker;
    this.#counts = counts;
    this.#workerIds = workerIds;
    this.#kvPaths = kvPaths;
  }

  /** Another epoch. */
  rebase(workerIds: readonly string[], kvPaths: Pick<KvPathObserver, 'step'>): void {
    this.#workerIds = workerIds;
    this.#kvPaths = kvPaths;
    this.recentDecodes = [];
  }

  countsEnd(): void {
    this.#tellCounts();
    this.#told = nothingTold;
  }

  step(measurement: StepMeasurement): void {
    if (measurement.sequences > 0) this.proof.answered();
    if (this.warming) this.measurements.push(measurement);
    // One that only moves says nothing of computing.
    else if (measurement.sequences > 0) {
      this.#metrics.step.observe(measurement.totalSeconds);
      const { load, rankComputeSeconds, rankCollectiveSeconds } = measurement;
      this.#tracker.observe(load, rankComputeSeconds, rankCollectiveSeconds);
      if (measurement.decodeOnly) this.recentDecodes.push(measurement);
      if (this.recentDecodes.length > recentMax) this.recentDecodes.shift();
    }
    this.#observeMoves(measurement);
    this.#kvPaths.step(measurement);
    this.#tellCounts();
  }

  /** What starts meanwhile nobody has asked for: it is no request that waited. */
  unasked<T>(start: () => T): T {
    this.#unasked = true;
    try {
      return start();
    } finally {
      this.#unasked = false;
    }
  }

  started(queueSeconds: number): void {
    if (!this.warming && !this.#unasked) this.#metrics.requestQueue.observe(queueSeconds);
  }

  resumed(waitSeconds: number): void {
    this.#metrics.residency.sequenceWait.observe(waitSeconds);
  }

  /** Seconds of a step with replayed tokens are theirs by their share of its tokens. */
  #observeMoves({ moves, plan, totalSeconds }: StepMeasurement): void {
    const { residency } = this.#metrics;
    const { seconds, replayedTokens, computedTokens } = moves;
    const { reloadedTokens, recalledBlocks, recalledTokens } = plan;
    if (recalledBlocks > 0) residency.restored('recall', recalledTokens, seconds);
    else if (seconds > 0 || reloadedTokens > 0) {
      residency.restored('reload', reloadedTokens, seconds);
    }
    if (replayedTokens > 0) {
      residency.restored(
        'replay',
        replayedTokens,
        (Math.max(0, totalSeconds - seconds) * replayedTokens) / computedTokens,
      );
    }
    for (const [rank, spent] of moves.rankRemoteSeconds.entries()) {
      residency.remote(this.#workerIds[rank] ?? '', spent);
    }
  }

  #tellCounts(): void {
    const counts = this.#counts();
    const told = this.#told;
    const metrics = this.#metrics;
    const { residency } = metrics;
    metrics.sequencesPreempted.inc(counts.preempted - told.preempted);
    metrics.prefixQueryTokens.inc(counts.prefixQueryTokens - told.prefixQueryTokens);
    metrics.prefixHitTokens.inc(counts.prefixHitTokens - told.prefixHitTokens);
    metrics.prefixEvictions.inc(counts.prefixEvictions - told.prefixEvictions);
    residency.tokensComputed.inc(counts.computedTokens - told.computedTokens);
    residency.tokensRecomputed.inc(counts.recomputedTokens - told.recomputedTokens);
    residency.tokensDropped.inc(counts.droppedTokens - told.droppedTokens);
    residency.tokensDroppedByChoice.inc(counts.droppedByChoiceTokens - told.droppedByChoiceTokens);
    this.#told = counts;
  }
}
