/** Makes the engine of a loaded group: step streams to its ranks, the loop over them, warm-up, attachment to the APIs. */
import type { Clock } from '../../proto/base/clock.ts';
import type { HelsError } from '../../proto/domain/errors.ts';
import { residencyOf } from '../../proto/domain/kv-residency.ts';
import type { EngineGroup, OpenEngineGroup } from '../deployment/coordinator.ts';
import type { PredictionTracker } from '../deployment/prediction-tracker.ts';
import { restoreCostsOf } from '../deployment/restore-costs.ts';
import type { ServingMetrics } from '../metrics/serving-metrics.ts';
import { cheapestRestore, parksAlways } from '../scheduler/restore-choice.ts';
import type { SwitchingEngine } from './generation-engine.ts';
import { sha256PrefixHash } from './prefix-hash.ts';
import { grpcRankStream } from './rank-stream.ts';
import { ServingObserver } from './serving-observer.ts';
import { StepLoop } from './step-loop.ts';
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
    const workerIds = group.workers.map(({ id }) => id);
    const costs = restoreCostsOf(group);
    const choice = costs === null ? parksAlways : cheapestRestore(costs);
    const observer = new ServingObserver(metrics, tracker, () => loop.scheduler.counts, workerIds);
    const loop: StepLoop = new StepLoop({
      term,
      epoch: shardPlan.epoch,
      limits: {
        kvBlocks,
        kvBlockTokens,
        parking: { blocks: shardPlan.kvParkedBlocks, choice },
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
        const result = await warmUp(loop, sequences, vocabRows, exact, observer.measurements);
        observer.warming = false;
        tracker.begin(group);
        return result;
      },
      attach() {
        engine.attach({
          loop,
          residency: residencyOf(shardPlan),
          workerIds,
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
