/** Makes the engine of a loaded group: step streams to its ranks, the loop over them, warm-up, attachment to the APIs, re-plans. */
import type { Clock } from '../../proto/base/clock.ts';
import type { HelsError } from '../../proto/domain/errors.ts';
import { residencyOf } from '../../proto/domain/kv-residency.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { LoadedGroup } from '../deployment/deployment-run.ts';
import type { EngineGroup, KvInUse, OpenEngineGroup } from '../deployment/engine-group.ts';
import type { MeasuredSteps } from '../deployment/plan-report.ts';
import type { PredictionTracker } from '../deployment/prediction-tracker.ts';
import { restoreCostsOf } from '../deployment/restore-costs.ts';
import type { ServingMetrics } from '../metrics/serving-metrics.ts';
import { cheapestRestore, parksAlways } from '../scheduler/restore-choice.ts';
import type { SwitchingEngine } from './generation-engine.ts';
import { sha256PrefixHash } from './prefix-hash.ts';
import { grpcRankStream } from './rank-stream.ts';
import { ServingObserver } from './serving-observer.ts';
import { type EpochOptions, StepLoop } from './step-loop.ts';
import { knownAnswer, measuredOf, warmUp } from './warm-up.ts';

/** Requests that may wait for a slot: several times what runs at once, so that a burst waits and a flood is refused. */
const waitingMax = 512;

/** What all groups of the process share. */
interface Surroundings {
  readonly engine: SwitchingEngine;
  readonly metrics: ServingMetrics;
  readonly tracker: PredictionTracker;
  readonly clock: Clock;
}

const workerIdsOf = ({ workers }: LoadedGroup) => workers.map(({ id }) => id);

function epochOf(group: LoadedGroup): EpochOptions {
  const { shardPlan } = group;
  const { kvBlocks, kvBlockTokens, stepTokensMax, sequencesMax } = shardPlan;
  const costs = restoreCostsOf(group);
  const choice = costs === null ? parksAlways : cheapestRestore(costs);
  return {
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
    ranks: group.workers.map((worker) => grpcRankStream(worker.id, worker.client.stub)),
    predictedStepSeconds: Math.max(
      shardPlan.predictedDecodeSeconds,
      shardPlan.predictedPrefillSeconds,
    ),
  };
}

class ServedGroup implements EngineGroup {
  readonly #surroundings: Surroundings;
  readonly #loop: StepLoop;
  readonly #observer: ServingObserver;
  #group: LoadedGroup;
  #attached = false;

  constructor(
    group: LoadedGroup,
    term: number,
    cachesPrefixes: boolean,
    surroundings: Surroundings,
    onFailed: (error: HelsError) => void,
  ) {
    const { engine, metrics, tracker, clock } = surroundings;
    this.#surroundings = surroundings;
    this.#group = group;
    const counts = () => this.#loop.scheduler.counts;
    this.#observer = new ServingObserver(metrics, tracker, counts, workerIdsOf(group));
    this.#loop = new StepLoop({
      ...epochOf(group),
      term,
      prefixHash: cachesPrefixes ? sha256PrefixHash : null,
      clock,
      observer: this.#observer,
      onFailed: (error) => {
        engine.detach(this.#loop);
        onFailed(error);
      },
    });
  }

  async warmUp(sequences: number): Promise<MeasuredSteps> {
    const exact = this.#group.numericsClass !== 'fast';
    const { measurements } = this.#observer;
    const result = await warmUp(this.#loop, sequences, this.#vocabRows, exact, measurements);
    this.#observer.warming = false;
    this.#surroundings.tracker.begin(this.#group);
    return result;
  }

  attach(): void {
    const { shardPlan, numericsClass } = this.#group;
    this.#attached = true;
    this.#surroundings.engine.attach({
      loop: this.#loop,
      residency: residencyOf(shardPlan),
      workerIds: workerIdsOf(this.#group),
      limits: {
        modelId: shardPlan.modelId,
        modelDigest: shardPlan.modelDigest,
        numericsClass,
        contextTokensMax: this.#loop.scheduler.contextTokensMax,
      },
    });
  }

  reserve({ kvBlocks, kvBlockTokens }: ShardPlan__Output): void {
    this.#loop.reserve(kvBlocks * kvBlockTokens);
  }

  pause(): Promise<void> {
    return this.#loop.pause();
  }

  kvInUse(): KvInUse {
    const { addresses, requests } = this.#loop.scheduler;
    return {
      addresses: [...addresses.runnable],
      computed: requests.map(({ computed }) => computed),
    };
  }

  /** When nobody is there to prove the new ranks, a known answer does. */
  async rebase(group: LoadedGroup, keptBlocks: number): Promise<void> {
    const idle = this.#loop.scheduler.requests.length === 0;
    const name = `re-plan-${group.shardPlan.epoch}`;
    const proof = idle ? knownAnswer(this.#loop, name, this.#vocabRows) : Promise.resolve();
    // What it says counts only once the first step is through.
    proof.catch(() => undefined);
    this.#observer.rebase(workerIdsOf(group));
    const rebased = this.#loop.rebase(epochOf(group), keptBlocks);
    this.#group = group;
    if (this.#attached) this.attach();
    this.#surroundings.tracker.rebase(group);
    await rebased;
    await proof;
  }

  measured(): MeasuredSteps | null {
    return measuredOf(this.#observer.recentDecodes);
  }

  async close(error: HelsError): Promise<void> {
    const { engine, tracker } = this.#surroundings;
    engine.detach(this.#loop);
    tracker.end(this.#group);
    this.#loop.close(error);
  }

  get #vocabRows(): number {
    return this.#group.shardPlan.model?.vocabRows ?? 0;
  }
}

/** `prefixCache`: whether the deployment that is being opened has one. */
export function openGroupWith(
  surroundings: Surroundings,
  prefixCache: () => boolean,
): OpenEngineGroup {
  return (group, term, onFailed) =>
    new ServedGroup(group, term, prefixCache(), surroundings, onFailed);
}
