import type { Clock } from '../proto/base/clock.ts';
import { version } from '../proto/base/version.ts';
import type { PlanReport } from '../proto/gen/hels/v1/PlanReport.ts';
import type { Status } from '../proto/gen/hels/v1/Status.ts';
import { plansAnew } from './deployment/auto-replan.ts';
import type { ClusterEvents } from './deployment/cluster-events.ts';
import type { Coordinator } from './deployment/coordinator.ts';
import { exactnessOf } from './deployment/numerics.ts';
import type { PredictionTracker } from './deployment/prediction-tracker.ts';
import type { ReplanLog } from './deployment/replan-log.ts';
import type { WorkerRegistry } from './deployment/worker-registry.ts';
import type { SwitchingEngine } from './engine/generation-engine.ts';
import { kvOfRanks, taxOf } from './engine/kv-of-ranks.ts';
import type { ServingGauges } from './metrics/serving-metrics.ts';
import { type Readiness, readinessOf } from './readiness.ts';

/** What the process looks like from outside: put together on request from those who own each part. */
export class StatusView {
  readonly #term: number;
  readonly #registry: WorkerRegistry;
  readonly #coordinator: Coordinator;
  readonly #engine: SwitchingEngine;
  readonly #tracker: PredictionTracker;
  readonly #events: ClusterEvents;
  readonly #replans: ReplanLog;
  readonly #clock: Clock;

  constructor(
    term: number,
    registry: WorkerRegistry,
    coordinator: Coordinator,
    engine: SwitchingEngine,
    tracker: PredictionTracker,
    events: ClusterEvents,
    replans: ReplanLog,
    clock: Clock,
  ) {
    this.#term = term;
    this.#registry = registry;
    this.#coordinator = coordinator;
    this.#engine = engine;
    this.#tracker = tracker;
    this.#events = events;
    this.#replans = replans;
    this.#clock = clock;
  }

  readiness(): Readiness {
    if (this.#engine.isDraining) return { ready: false, phase: 'draining', reason: 'draining' };
    const { group, serving } = this.#coordinator;
    return readinessOf(group, serving?.engine.silentSinceMs ?? null, this.#clock.nowMs());
  }

  planOrNull(): PlanReport | null {
    return this.#coordinator.served === null ? null : this.#coordinator.report();
  }

  gauges(): ServingGauges {
    const { serving } = this.#engine;
    const counts = serving?.loop.scheduler.counts;
    return {
      requestsRunning: counts?.running ?? 0,
      requestsWaiting: (counts?.waiting ?? 0) + this.#engine.held,
      kvBlocksUsed: counts?.kvBlocksUsed ?? 0,
      kvBlocksTotal: counts?.kvBlocksTotal ?? 0,
      kvBlocksCached: counts?.kvBlocksCached ?? 0,
      kvParkedBlocksUsed: counts?.kvParkedBlocksUsed ?? 0,
      kvParkedBlocksTotal: counts?.kvParkedBlocksTotal ?? 0,
      kvOfRanks: serving === null ? [] : kvOfRanks(serving),
      recomputeTax: counts === undefined ? 0 : taxOf(counts),
      workersRegistered: this.#registry.members().map(({ id }) => id),
      workersAlive: this.#registry.members().filter(({ state }) => state === 'alive').length,
      epoch: this.#coordinator.group.epoch,
    };
  }

  status(): Status {
    const { phase, epoch, detail, request } = this.#coordinator.group;
    const { served, serving } = this.#coordinator;
    const nowMs = this.#clock.nowMs();
    const counts = this.#engine.serving?.loop.scheduler.counts;
    const { requestsRunning, requestsWaiting, kvBlocksUsed, kvBlocksTotal, ...gauges } =
      this.gauges();
    return {
      version: version(),
      state: phase,
      term: this.#term,
      epoch,
      modelId: served?.modelId ?? '',
      modelDigest: served?.digest ?? '',
      numericsClass: this.#engine.limits()?.numericsClass ?? '',
      ...(served === null || serving === null ? {} : exactnessOf(serving.loaded)),
      detail,
      requestsRunning,
      requestsWaiting,
      sequencesMax: this.#engine.serving?.loop.sequencesMax ?? 0,
      kvBlocksUsed,
      kvBlocksTotal,
      kvBlocksCached: gauges.kvBlocksCached,
      kvParkedBlocksUsed: gauges.kvParkedBlocksUsed,
      kvParkedBlocksTotal: gauges.kvParkedBlocksTotal,
      rankKv: gauges.kvOfRanks.map(({ workerId, ...tokens }) => ({
        workerId,
        residentTokens: tokens.resident,
        remoteTokens: tokens.remote,
        parkedTokens: tokens.parked,
        parkedHostTokens: tokens.parkedInHost,
        droppedTokens: tokens.dropped,
        heldTokens: tokens.held,
      })),
      recomputeTax: gauges.recomputeTax,
      kvPaths: this.#engine.serving?.kvPaths.predictions() ?? [],
      prefixCache: this.#engine.serving?.loop.cachesPrefixes ?? false,
      prefixQueryTokens: counts?.prefixQueryTokens ?? 0,
      prefixHitTokens: counts?.prefixHitTokens ?? 0,
      predictions: this.#tracker.predictions(),
      events: this.#events.list(),
      lastReplan: this.#replans.last,
      replans: this.#replans.count,
      autoReplan: request !== null && plansAnew(request),
      steps: this.#engine.serving?.loop.stepsFinished ?? 0,
      workers: this.#registry.members().map((member) => ({
        workerId: member.id,
        address: member.address,
        state: member.state,
        incarnation: member.incarnation,
        device: member.device,
        progress: member.progress,
        heartbeatAgeSeconds: (nowMs - member.lastHeartbeatMs) / 1000,
        version: member.version,
        drained: this.#registry.isDrained(member.id),
      })),
    };
  }
}
