/** What the ranks' steps say about their latency lines: predictions beside measurements, refined lines, drift and its events. */
import type { Clock } from '../../proto/base/clock.ts';
import { toHelsError } from '../../proto/domain/errors.ts';
import { isGpuLoan, loanBlockTokens } from '../../proto/domain/kv-residency.ts';
import type { PlanDevice, PlanInput } from '../../proto/domain/plan.ts';
import type { StepLoad } from '../../proto/domain/step-load.ts';
import type { RankShard__Output } from '../../proto/gen/hels/v1/RankShard.ts';
import type { StepPrediction } from '../../proto/gen/hels/v1/StepPrediction.ts';
import { plan } from '../planner/plan.ts';
import { plannedDecodeSeconds } from '../planner/planned-shares.ts';
import {
  type DriftState,
  initialDrift,
  judgeDrift,
  type PayBack,
  payBackOf,
} from '../profiler/drift.ts';
import type { LatencyFit } from '../profiler/fit-latency.ts';
import { type LoadPoint, predictMixedSeconds, predictSeconds } from '../profiler/latency-terms.ts';
import {
  initialOnline,
  type OnlineState,
  observeStep,
  ratioOf,
  refineLines,
} from '../profiler/online.ts';
import type { ClusterEvents } from './cluster-events.ts';
import type { LoadedGroup } from './deployment-run.ts';
import { observeLoad } from './operating-point.ts';
import { plannedRanksOf } from './plan-report.ts';

export interface PredictionObserver {
  /** |measured - predicted| / measured of one rank's kernels in one step. */
  error(workerId: string, ratio: number): void;
}

/** Errors that a median in the status is taken over. */
const errorsKept = 256;

interface Rank {
  workerId: string;
  shard: RankShard__Output;
  decode: OnlineState;
  drift: DriftState;
  /** As it was last told. */
  drifted: boolean;
  errors: number[];
  refinedErrors: number[];
}

/** Of every rank anew: after a re-plan the last loading was of changed slices alone. */
function loadSecondsOf({ shardPlan, loadRates, prepared }: LoadedGroup): number {
  const seconds = shardPlan.ranks.map(({ workerId, weightBytes }, rank) => {
    const rate = loadRates.get(workerId) ?? 0;
    return rate > 0 ? weightBytes / rate : (prepared[rank]?.seconds ?? 0);
  });
  return Math.max(0, ...seconds);
}

type RefinedDevice = Pick<PlanDevice, 'id' | 'decode' | 'prefill' | 'link' | 'exchangeLink'>;

const sizeOf = (range: { begin: number; end: number } | null) =>
  range === null ? 0 : range.end - range.begin;

function medianPercent(errors: readonly number[]): number {
  const sorted = [...errors].sort((left, right) => left - right);
  return 100 * (sorted[Math.floor(sorted.length / 2)] ?? 0);
}

function keep(values: number[], value: number): void {
  values.push(value);
  if (values.length > errorsKept) values.shift();
}

export class PredictionTracker {
  readonly #clock: Clock;
  readonly #events: Pick<ClusterEvents, 'tell'>;
  readonly #observer: PredictionObserver;
  #group: LoadedGroup | null = null;
  #ranks: Rank[] = [];
  /** Measured / predicted of workers that have not served a step under this plan: of an earlier plan of the deployment, or of its trial. */
  #formerRatios = new Map<string, number>();
  /** Of workers that joined since the group began to serve. */
  readonly #joinedFits = new Map<string, LatencyFit>();
  /** The mean step of the last seconds. */
  #load: StepLoad | null = null;
  #steps = 0;
  /** Of the collectives against the links. */
  #link: OnlineState = initialOnline;

  constructor(clock: Clock, events: Pick<ClusterEvents, 'tell'>, observer: PredictionObserver) {
    this.#clock = clock;
    this.#events = events;
    this.#observer = observer;
  }

  /** A new group serves: its lines are as they were fitted, and off as its trial has shown. */
  begin(group: LoadedGroup): void {
    this.#link = initialOnline;
    this.#formerRatios = new Map(group.trialRatios);
    this.#load = null;
    this.#ranks = [];
    this.rebase(group);
  }

  /** The group serves another plan with the same lines: what was learnt of its devices stays true. */
  rebase(group: LoadedGroup): void {
    const known = new Map(this.#ranks.map((rank) => [rank.workerId, rank]));
    for (const [id, { decode }] of known) {
      if (decode.steps > 0) this.#formerRatios.set(id, ratioOf(decode));
    }
    this.#group = group;
    this.#ranks = group.shardPlan.ranks.map((shard) => ({
      workerId: shard.workerId,
      shard,
      decode: known.get(shard.workerId)?.decode ?? initialOnline,
      drift: known.get(shard.workerId)?.drift ?? initialDrift,
      drifted: known.get(shard.workerId)?.drifted ?? initialDrift.drifted,
      errors: [],
      refinedErrors: [],
    }));
  }

  /** The group serves no longer. */
  end(group: LoadedGroup): void {
    if (this.#group !== group) return;
    this.#group = null;
    this.#ranks = [];
  }

  /** By rank: seconds of its kernels, and of its collectives with what it waits in them for slower ranks. */
  observe(
    load: StepLoad,
    rankSeconds: readonly number[],
    rankCollectiveSeconds: readonly number[],
  ): void {
    this.#observeLink(load.decodeTokens + load.prefillTokens, rankCollectiveSeconds);
    const seconds = rankSeconds.map((own, rank) => own + (rankCollectiveSeconds[rank] ?? 0));
    this.#load = observeLoad(this.#load, load, Math.max(0, ...seconds));
    this.#steps += 1;
    for (const [index, rank] of this.#ranks.entries()) {
      const measured = rankSeconds[index] ?? 0;
      const predicted = this.#predict(rank, load);
      if (!(measured > 0 && predicted > 0)) continue;
      const error = Math.abs(measured - predicted) / measured;
      this.#observer.error(rank.workerId, error);
      // The plan is made from the decode lines, so these are the ones that are kept true.
      if (load.prefillTokens > 0) continue;
      keep(rank.errors, error);
      const refined = predicted * ratioOf(rank.decode);
      if (rank.decode.steps > 0) keep(rank.refinedErrors, Math.abs(measured - refined) / measured);
      rank.decode = observeStep(rank.decode, predicted, measured);
      rank.drift = judgeDrift(rank.drift, rank.decode, this.#clock.nowMs());
    }
  }

  /** Tells what has begun to drift and what has ended: apart from the steps, which do not wait for a plan to be priced. */
  tick(): void {
    for (const rank of this.#ranks) {
      if (rank.drift.drifted === rank.drifted) continue;
      rank.drifted = rank.drift.drifted;
      this.#tellDrift(rank);
    }
  }

  predictions(): StepPrediction[] {
    return this.#ranks.map((rank) => ({
      workerId: rank.workerId,
      ratio: ratioOf(rank.decode),
      errorMedianPercent: medianPercent(rank.errors),
      refinedErrorMedianPercent: medianPercent(rank.refinedErrors),
      steps: rank.decode.steps,
      drifted: rank.drift.drifted,
      linkRatio: this.#link.steps > 0 ? ratioOf(this.#link) : 0,
    }));
  }

  /** The mean step of the last seconds, and the number of steps served so far; null before the first one. */
  served(): { load: StepLoad; steps: number } | null {
    return this.#load === null ? null : { load: this.#load, steps: this.#steps };
  }

  /** The rank that waits least waits for nobody: its collectives are the link's own cost. */
  #observeLink(tokens: number, rankCollectiveSeconds: readonly number[]): void {
    if (this.#ranks.length < 2) return;
    const least = Math.min(...rankCollectiveSeconds);
    const rank = this.#ranks[rankCollectiveSeconds.indexOf(least)];
    if (rank !== undefined) {
      this.#link = observeStep(this.#link, this.#linkSeconds(rank, tokens), least);
    }
  }

  #linkSeconds(rank: Rank, tokens: number): number {
    const device = this.#group?.input.devices.find(({ id }) => id === rank.workerId);
    return (device?.link?.constant ?? 0) + (device?.link?.perToken ?? 0) * tokens;
  }

  #predict(rank: Rank, load: StepLoad): number {
    const fit = this.#group?.profiles.get(rank.workerId)?.fit;
    if (fit === undefined) return 0;
    const { decodeTokens, decodeContextTokens } = load;
    const { prefillTokens: chunkTokens, prefillContextTokens: chunkContextTokens } = load;
    const prefill = decodeTokens === 0;
    const point: LoadPoint = {
      prefill,
      tokens: prefill ? chunkTokens : decodeTokens,
      contextTokens: prefill ? chunkContextTokens : decodeContextTokens,
      headGroups: sizeOf(rank.shard.headGroups),
      ffnColumns: sizeOf(rank.shard.ffnColumns),
      vocabRows: sizeOf(rank.shard.vocabRows),
      ...(prefill ? {} : { chunkTokens, chunkContextTokens }),
    };
    if (prefill) return predictSeconds(fit.prefill, point);
    if (chunkTokens === 0) return predictSeconds(fit.decode, point);
    return predictMixedSeconds(fit.decode, fit.phases.mixed.perContextHeadGroup, point);
  }

  #tellDrift({ workerId, decode, drifted }: Rank): void {
    const takes = `decode steps of '${workerId}' take ${ratioOf(decode).toFixed(2)} times what its lines say`;
    if (!drifted) {
      this.#events.tell('drift-ended', workerId, takes);
      return;
    }
    const { worth, seconds } = this.#worth();
    this.#events.tell('drift', workerId, `${takes}; ${worth}`, seconds);
  }

  /** What a new plan is worth, for people: that it cannot be said ends nothing. */
  #worth(): { worth: string; seconds: number } {
    try {
      const { gainPerSecond, seconds } = this.#payBack();
      if (!Number.isFinite(seconds)) return { worth: 'a new plan would not be faster', seconds: 0 };
      const saved = `save ${(100 * gainPerSecond).toFixed(0)} % of a step`;
      const worth = `a new plan would ${saved} and pay back its move in ${seconds.toFixed(1)} s`;
      return { worth, seconds };
    } catch (error) {
      const { message } = toHelsError(error);
      return { worth: `what a new plan would save is not known: ${message}`, seconds: 0 };
    }
  }

  /** The split as it is against the best one, both under the refined lines. */
  #payBack(): PayBack {
    const group = this.#group;
    if (group === null) return { gainPerSecond: 0, seconds: Number.POSITIVE_INFINITY };
    const refined = this.#refinedInput(group.input);
    const replanned = plan(refined, () => this.#clock.nowMs());
    return payBackOf({
      stepSeconds: plannedDecodeSeconds(refined, plannedRanksOf(group.shardPlan)),
      replannedStepSeconds: replanned.feasible
        ? replanned.predicted.decodeSeconds
        : Number.POSITIVE_INFINITY,
      movingSeconds: loadSecondsOf(group),
    });
  }

  #refinedInput(input: PlanInput): PlanInput {
    return { ...input, devices: this.refine(input.devices), policy: 'hels' };
  }

  /**
   * Devices with the lines as refined in service. One that the plan left out is believed to be as far off its profile as the worst that
   * serves: profiles are kind, and a device must not look better for not having been tried.
   */
  refine<Device extends RefinedDevice>(devices: readonly Device[]): Device[] {
    const linkRatio = ratioOf(this.#link);
    const believed = new Map(this.#ranks.map((rank) => [rank.workerId, this.#believed(rank)]));
    const worst = Math.max(1, ...believed.values());
    // Links are probed by way of the host. GPUs may sum another way, and that is what service shows; they exchange KV by way of the host.
    const isGpu = isGpuLoan(this.#group?.input.loanBlockTokens ?? loanBlockTokens);
    return devices.map((device) => {
      const ratio = believed.get(device.id) ?? this.#formerRatios.get(device.id) ?? worst;
      const probed = device.link ?? { constant: 0, perToken: 0 };
      const asServed = ({ constant, perToken }: typeof probed) => ({
        ...{ constant: constant * linkRatio, perToken: perToken * linkRatio },
      });
      const exchange = device.exchangeLink ?? (isGpu ? probed : undefined);
      // Ratios are of the lines as fitted; those of the device may be a trial's.
      const fitted = this.#group?.profiles.get(device.id)?.fit;
      const lines = this.#joinedFits.get(device.id) ?? fitted ?? device;
      return {
        ...device,
        link: asServed(probed),
        ...(exchange === undefined ? {} : { exchangeLink: isGpu ? exchange : asServed(exchange) }),
        decode: refineLines([lines.decode].flat(), ratio),
        prefill: refineLines([lines.prefill].flat(), ratio),
      };
    });
  }

  /** A worker of another life than before, if there was one: what was known of that one says nothing. */
  joined(workerId: string, fit: LatencyFit): void {
    this.#joinedFits.set(workerId, fit);
    this.#formerRatios.delete(workerId);
  }

  /** Before its first step, what was known before. */
  #believed({ workerId, decode }: Rank): number {
    return decode.steps > 0 ? ratioOf(decode) : (this.#formerRatios.get(workerId) ?? 1);
  }
}
