/** Makes the engine of a loaded group: step streams to its ranks, the loop over them, warm-up, attachment to the APIs, re-plans. */
import type { Clock } from '../../proto/base/clock.ts';
import type { Logger } from '../../proto/base/log.ts';
import { type HelsError, toHelsError } from '../../proto/domain/errors.ts';
import { residencyOf } from '../../proto/domain/kv-residency.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { ClusterEvents } from '../deployment/cluster-events.ts';
import type { LoadedGroup } from '../deployment/deployment-run.ts';
import type { EngineGroup, OpenEngineGroup } from '../deployment/engine-group.ts';
import { differingWorkers } from '../deployment/numerics.ts';
import type { MeasuredSteps } from '../deployment/plan-report.ts';
import type { PredictionTracker } from '../deployment/prediction-tracker.ts';
import type { ServingMetrics } from '../metrics/serving-metrics.ts';
import type { HeldKv, KeptRoom } from '../scheduler/hand-over.ts';
import { epochOptionsOf, type KvChoices } from './epoch-options.ts';
import type { SwitchingEngine } from './generation-engine.ts';
import { KvPathObserver } from './kv-path-observer.ts';
import { isOurFault } from './our-fault.ts';
import { sha256PrefixHash } from './prefix-hash.ts';
import { ServingObserver } from './serving-observer.ts';
import { StepLoop } from './step-loop.ts';
import { knownAnswer, measuredOf, warmUp } from './warm-up.ts';

/** What all groups of the process share. */
interface Surroundings {
  readonly engine: SwitchingEngine;
  readonly metrics: ServingMetrics;
  readonly tracker: PredictionTracker;
  readonly events: Pick<ClusterEvents, 'tell'>;
  readonly clock: Clock;
  readonly log: Pick<Logger, 'error'>;
}

/** A warm-up has more. */
const provedSteps = 8;

const workerIdsOf = ({ workers }: LoadedGroup) => workers.map(({ id }) => id);

const headGroupsOf = ({ headGroups }: ShardPlan__Output['ranks'][number]) =>
  (headGroups?.end ?? 0) - (headGroups?.begin ?? 0);

const weightsOf = ({ weightsDigest, shardPlan: { model, numerics } }: LoadedGroup) =>
  JSON.stringify([weightsDigest, model?.quantization, numerics]);

const stackOf = (cause: unknown) => (cause instanceof Error ? cause.stack : undefined);

/** Positions whose KV is there or in a step under way, of all requests. */
const computedIn = ({ scheduler }: StepLoop) =>
  scheduler.requests.reduce((sum, { computed }) => sum + computed, 0);

class ServedGroup implements EngineGroup {
  readonly #surroundings: Surroundings;
  readonly #loop: StepLoop;
  readonly #observer: ServingObserver;
  readonly #deployment: () => KvChoices;
  #group: LoadedGroup;
  #kvPaths: KvPathObserver;
  /** An answer that takes the place of requests is on its way. */
  #proving = false;
  #attached = false;
  #toldDiffering = '';
  #toldUnproved: number | null = null;

  constructor(
    group: LoadedGroup,
    term: number,
    deployment: () => KvChoices,
    surroundings: Surroundings,
    onFailed: (error: HelsError) => void,
  ) {
    const { engine, metrics, tracker, clock, log } = surroundings;
    this.#surroundings = surroundings;
    this.#deployment = deployment;
    this.#group = group;
    this.#kvPaths = KvPathObserver.of(group);
    const counts = () => this.#loop.scheduler.counts;
    const workerIds = workerIdsOf(group);
    this.#observer = new ServingObserver(metrics, tracker, counts, workerIds, this.#kvPaths);
    this.#loop = new StepLoop({
      ...epochOptionsOf(group, deployment(), this.#kvPaths.tracker),
      term,
      prefixHash: deployment().prefixCache === false ? null : sha256PrefixHash,
      clock,
      observer: this.#observer,
      onFailed: (error) => {
        const { epoch } = this.#group.shardPlan;
        // What else ends an epoch is told as an event, with what follows.
        if (isOurFault(error)) {
          log.error('epoch failed', { epoch, error: error.message, stack: stackOf(error.cause) });
        }
        engine.detach(this.#loop);
        onFailed(error);
      },
    });
  }

  async warmUp(sequences: number): Promise<MeasuredSteps> {
    const exact = this.#group.numericsClass !== 'fast';
    const { measurements } = this.#observer;
    return await warmUp(this.#loop, sequences, this.#vocabRows, exact, measurements);
  }

  attach(): void {
    this.#refuseOver();
    const { shardPlan, numericsClass } = this.#group;
    if (!this.#attached) this.#surroundings.tracker.begin(this.#group);
    this.#tellDiffering();
    this.#observer.warming = false;
    this.#attached = true;
    this.#surroundings.engine.attach({
      loop: this.#loop,
      residency: residencyOf(shardPlan),
      kvPaths: this.#kvPaths.tracker,
      workerIds: workerIdsOf(this.#group),
      headGroups: shardPlan.ranks.map(headGroupsOf),
      weights: weightsOf(this.#group),
      limits: {
        modelId: shardPlan.modelId,
        modelDigest: shardPlan.modelDigest,
        quantization: shardPlan.model?.quantization ?? 'none',
        numericsClass,
        contextTokensMax: this.#loop.scheduler.contextTokensMax,
      },
    });
    this.#refuseOver();
  }

  /** The requests that are handed to the loop may end it, before anybody could be told that it serves. */
  #refuseOver(): void {
    if (this.#loop.failure !== null) throw this.#loop.failure;
  }

  /** Once, and again when a re-plan makes it others. */
  #tellDiffering(): void {
    const differing = differingWorkers(this.#group);
    const told = differing.join();
    if (told === this.#toldDiffering) return;
    this.#toldDiffering = told;
    for (const id of differing) {
      const message = `kernels of worker '${id}' give other bits than those of most ranks: answers may depend on split and batch`;
      this.#surroundings.events.tell('mixed-numerics', id, message);
    }
  }

  get isAwaited(): boolean {
    return this.#surroundings.engine.held > 0;
  }

  get isProved(): boolean {
    return this.#loop.stepsFinished >= provedSteps;
  }

  reserve({ kvBlocks, kvBlockTokens }: ShardPlan__Output): void {
    this.#loop.reserve(kvBlocks * kvBlockTokens);
  }

  get silentSinceMs(): number | null {
    return this.#observer.proof.silentSinceMs;
  }

  proveIdle(): void {
    const idle = this.#loop.scheduler.requests.length === 0;
    if (this.silentSinceMs === null || this.#proving || !idle) return;
    this.#proving = true;
    const { epoch } = this.#group.shardPlan;
    const proof = this.#observer.unasked(() =>
      knownAnswer(this.#loop, `proof-${epoch}`, this.#vocabRows),
    );
    proof
      .catch((error: unknown) => this.#tellUnproved(epoch, toHelsError(error).message))
      .finally(() => {
        this.#proving = false;
      });
  }

  /** Once for each epoch: it is tried again and again. */
  #tellUnproved(epoch: number, why: string): void {
    if (this.#toldUnproved === epoch) return;
    this.#toldUnproved = epoch;
    const message = `no known answer went through the ranks of epoch ${epoch}: ${why}`;
    this.#surroundings.events.tell('unproved', '', message);
  }

  async pause(): Promise<void> {
    await this.#loop.pause();
    this.#observer.proof.paused(this.#surroundings.clock.nowMs());
  }

  kvInUse(): readonly HeldKv[] {
    return this.#loop.scheduler.requests;
  }

  /** When nobody is there to prove the new ranks, a known answer does. */
  async rebase(group: LoadedGroup, room: KeptRoom): Promise<number> {
    const before = computedIn(this.#loop);
    const idle = this.#loop.scheduler.requests.length === 0;
    const name = `re-plan-${group.shardPlan.epoch}`;
    const proof = idle ? knownAnswer(this.#loop, name, this.#vocabRows) : Promise.resolve();
    // What it says counts only once the first step is through.
    proof.catch(() => undefined);
    this.#kvPaths = KvPathObserver.of(group);
    this.#observer.rebase(workerIdsOf(group), this.#kvPaths);
    const epoch = epochOptionsOf(group, this.#deployment(), this.#kvPaths.tracker);
    const rebase = () => this.#loop.rebase(epoch, room);
    const rebased = idle ? this.#observer.unasked(rebase) : rebase();
    // Awaited below, unless the loop is over: that takes nothing over, and whoever waits is for the next one.
    rebased.catch(() => undefined);
    this.#refuseOver();
    // What the first steps of the new epoch compute is planned already, and not kept.
    const kept = computedIn(this.#loop) - this.#loop.scheduler.counts.computedTokens;
    this.#group = group;
    this.#surroundings.tracker.rebase(group);
    if (this.#attached) this.attach();
    await rebased;
    await proof;
    return Math.max(0, before - kept);
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

/** `deployment`: the one that is being opened, or that a re-plan goes to. */
export function openGroupWith(
  surroundings: Surroundings,
  deployment: () => KvChoices | null,
): OpenEngineGroup {
  return (group, term, onFailed) =>
    new ServedGroup(group, term, () => deployment() ?? { workload: null }, surroundings, onFailed);
}
