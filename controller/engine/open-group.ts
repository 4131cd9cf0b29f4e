/** Makes the engine of a loaded group: step streams to its ranks, the loop over them, warm-up, attachment to the APIs. */
import type { Clock } from '../../proto/base/clock.ts';
import type { HelsError } from '../../proto/domain/errors.ts';
import { residencyOf } from '../../proto/domain/kv-residency.ts';
import type { DeploymentRequest } from '../cluster/group.ts';
import type { EngineGroup, OpenEngineGroup } from '../deployment/coordinator.ts';
import type { LoadedGroup } from '../deployment/deployment-run.ts';
import type { KvPathTracker } from '../deployment/kv-path-tracker.ts';
import type { PredictionTracker } from '../deployment/prediction-tracker.ts';
import { restoreCostsOf } from '../deployment/restore-costs.ts';
import type { ServingMetrics } from '../metrics/serving-metrics.ts';
import { cheapestRestore, parksAlways, type RestoreChoice } from '../scheduler/restore-choice.ts';
import type { SchedulerLimits } from '../scheduler/scheduler.ts';
import type { SwitchingEngine } from './generation-engine.ts';
import { KvPathObserver } from './kv-path-observer.ts';
import { sha256PrefixHash } from './prefix-hash.ts';
import { grpcRankStream } from './rank-stream.ts';
import { ServingObserver } from './serving-observer.ts';
import { StepLoop } from './step-loop.ts';
import { warmUp } from './warm-up.ts';

/** Requests that may wait for a slot: several times what runs at once, so that a burst waits and a flood is refused. */
const waitingMax = 512;

/** What a deployment says about its KV. */
type KvChoices = Pick<DeploymentRequest, 'prefixCache' | 'kvPolicy'>;

/** What the scheduler does when KV runs out; slots have the length that the plan was made for. */
function shortageOf({ kvPolicy }: KvChoices, slotTokens: number): Partial<SchedulerLimits> {
  switch (kvPolicy) {
    case 'replay':
      return { replaysWhole: true };
    case 'reserve':
      return { reserveTokens: 1 };
    case 'slots':
      return { reserveTokens: slotTokens };
    default:
      return {};
  }
}

/** By the fitted costs, as what the group's steps take refines them. */
function choiceOf(group: LoadedGroup, paths: KvPathTracker): RestoreChoice {
  const costs = restoreCostsOf(group);
  return costs === null ? parksAlways : cheapestRestore(costs, (path) => paths.ratioOf(path));
}

/** `deployment`: the one that is being opened. */
export function openGroupWith(
  engine: SwitchingEngine,
  metrics: ServingMetrics,
  tracker: PredictionTracker,
  clock: Clock,
  deployment: () => KvChoices | null,
): OpenEngineGroup {
  return (group, term, onFailed): EngineGroup => {
    const { shardPlan, input } = group;
    const choices = deployment() ?? {};
    const { kvBlocks, kvBlockTokens, stepTokensMax, sequencesMax } = shardPlan;
    const workerIds = group.workers.map(({ id }) => id);
    const kvPaths = KvPathObserver.of(group);
    const observer = new ServingObserver(
      metrics,
      tracker,
      () => loop.scheduler.counts,
      workerIds,
      kvPaths,
    );
    const loop: StepLoop = new StepLoop({
      term,
      epoch: shardPlan.epoch,
      limits: {
        kvBlocks,
        kvBlockTokens,
        ...shortageOf(choices, input.workload.contextTokens),
        parking: { blocks: shardPlan.kvParkedBlocks, choice: choiceOf(group, kvPaths.tracker) },
        stepTokensMax,
        sequencesMax,
        contextTokensMax: shardPlan.model?.maxPositions ?? 0,
        waitingMax,
      },
      prefixHash: choices.prefixCache === false ? null : sha256PrefixHash,
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
          kvPaths: kvPaths.tracker,
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
