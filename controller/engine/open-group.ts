/** Makes the engine of a loaded group: step streams to its ranks, the loop over them, warm-up, attachment to the APIs. */
import type { Clock } from '../../proto/base/clock.ts';
import type { HelsError } from '../../proto/domain/errors.ts';
import type { EngineGroup, OpenEngineGroup } from '../deployment/coordinator.ts';
import type { PredictionTracker } from '../deployment/prediction-tracker.ts';
import type { ServingMetrics } from '../metrics/serving-metrics.ts';
import type { SwitchingEngine } from './generation-engine.ts';
import { sha256PrefixHash } from './prefix-hash.ts';
import { grpcRankStream } from './rank-stream.ts';
import { StepLoop, type StepMeasurement, type StepObserver } from './step-loop.ts';
import { warmUp } from './warm-up.ts';

/** Requests that may wait for a slot: several times what runs at once, so that a burst waits and a flood is refused. */
const waitingMax = 512;

/** `prefixCache`: whether the deployment that is being opened has one. */
export function openGroupWith(
  engine: SwitchingEngine,
  metrics: ServingMetrics,
  tracker: PredictionTracker,
  clock: Clock,
  prefixCache: () => boolean,
): OpenEngineGroup {
  return (group, term, onFailed): EngineGroup => {
    const { shardPlan } = group;
    const { kvBlocks, kvBlockTokens, stepTokensMax, sequencesMax } = shardPlan;
    const measurements: StepMeasurement[] = [];
    let warming = true;
    const told = { preempted: 0, prefixQueryTokens: 0, prefixHitTokens: 0, prefixEvictions: 0 };
    const observer: StepObserver = {
      step: (measurement) => {
        if (warming) measurements.push(measurement);
        else {
          metrics.step.observe(measurement.totalSeconds);
          const { load, rankComputeSeconds, rankCollectiveSeconds } = measurement;
          tracker.observe(load, rankComputeSeconds, rankCollectiveSeconds);
        }
        const { counts } = loop.scheduler;
        metrics.sequencesPreempted.inc(counts.preempted - told.preempted);
        metrics.prefixQueryTokens.inc(counts.prefixQueryTokens - told.prefixQueryTokens);
        metrics.prefixHitTokens.inc(counts.prefixHitTokens - told.prefixHitTokens);
        metrics.prefixEvictions.inc(counts.prefixEvictions - told.prefixEvictions);
        Object.assign(told, counts);
      },
      started: (queueSeconds) => {
        if (!warming) metrics.requestQueue.observe(queueSeconds);
      },
    };
    const loop = new StepLoop({
      term,
      epoch: shardPlan.epoch,
      limits: {
        kvBlocks,
        kvBlockTokens,
        stepTokensMax,
        sequencesMax,
        contextTokensMax: shardPlan.model?.maxPositions ?? 0,
        waitingMax,
      },
      prefixHash: prefixCache() ? sha256PrefixHash : null,
      ranks: group.workers.map((worker) => grpcRankStream(worker.id, worker.client.stub)),
      predictedStepSeconds: Math.max(
        shardPlan.predictedDecodeSeconds,
        shardPlan.predictedPrefillSeconds,
      ),
      clock,
      observer,
      onFailed: (error: HelsError) => {
        engine.detach(loop);
        onFailed(error);
      },
    });
    return {
      async warmUp(sequences) {
        const vocabRows = shardPlan.model?.vocabRows ?? 0;
        const exact = group.numericsClass !== 'fast';
        const result = await warmUp(loop, sequences, vocabRows, exact, measurements);
        warming = false;
        tracker.begin(group);
        return result;
      },
      attach() {
        engine.attach({
          loop,
          limits: {
            modelId: shardPlan.modelId,
            modelDigest: shardPlan.modelDigest,
            numericsClass: group.numericsClass,
            contextTokensMax: loop.scheduler.contextTokensMax,
          },
        });
      },
      async close(error) {
        engine.detach(loop);
        tracker.end(group);
        loop.close(error);
      },
    };
  };
}
