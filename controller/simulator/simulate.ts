/**
 * Serves a trace in virtual time: the scheduler, the pipeline of the step loop, the planner and the machine of the group's life as they
 * are, over ranks whose step times come from latency lines. Pure: the same options give the same report.
 */
import { HelsError } from '../../proto/domain/errors.ts';
import type { GenerationRequest } from '../../proto/domain/generation.ts';
import type { PlanInput, PlanOutput } from '../../proto/domain/plan.ts';
import { plan as planFor } from '../planner/plan.ts';
import { type ClusterChange, ClusterLife, type Orders } from './cluster-life.ts';
import { Random } from './random.ts';
import { type ServiceLevel, type SimulationReport, simulationReport } from './report.ts';
import { RequestLog, type RequestRecord } from './request-log.ts';
import { type ServingLimits, SimulatedEpoch } from './simulated-epoch.ts';
import { Timeline } from './timeline.ts';
import type { Arrival } from './trace/arrival.ts';

/** Devices that come and go. */
export interface ClusterChanges {
  /** In the order of time. */
  readonly changes: readonly ClusterChange[];
  /** From the loss of a device to its notice: the lease. */
  readonly noticeSeconds: number;
  /** From the start of a deployment to serving: weights, collectives, warm-up. */
  readonly redeploySeconds: number;
  /** For how long a request whose epoch has ended waits for the next. */
  readonly heldSeconds: number;
  /** Until how long after its end those that come meanwhile do, and how many. */
  readonly returnWaitSeconds: number;
  readonly returnWaitingMax: number;
}

export interface SimulationOptions {
  /** Devices with their lines, as the plan was made from them. */
  readonly input: PlanInput;
  /** Served from the start. */
  readonly plan: PlanOutput;
  /** In the order of arrival. */
  readonly trace: readonly Arrival[];
  readonly limits: ServingLimits;
  readonly serviceLevel: ServiceLevel;
  readonly seed: number;
  /** Relative standard deviation of a rank's compute time; default 0. */
  readonly noise?: number;
  /** From the controller to the ranks and back; default 0. */
  readonly controlSeconds?: number;
  readonly cluster?: ClusterChanges;
}

export interface Simulated {
  readonly report: SimulationReport;
  /** Of each request of the trace, in its order. */
  readonly records: readonly RequestRecord[];
}

class Simulation {
  readonly #options: SimulationOptions;
  readonly #random: Random;
  readonly #log: RequestLog;
  readonly #life: ClusterLife;
  /** Changes of the cluster and what follows from them. */
  readonly #timeline = new Timeline();
  readonly #epochs: SimulatedEpoch[] = [];
  readonly #computed = new Map<string, number>();
  #serving: SimulatedEpoch | null = null;
  /** Devices that are gone without the controller's knowledge. */
  readonly #unnoticed = new Set<string>();
  /** Requests whose epoch has ended, in the order of arrival. */
  #held: readonly number[] = [];
  #endedSeconds = 0;
  /** Requests that came while no epoch served. */
  readonly #newcomers = new Set<number>();
  #arrived = 0;
  #nowSeconds = 0;
  #kvShareSeconds = 0;

  constructor(options: SimulationOptions) {
    this.#options = options;
    this.#random = new Random(options.seed);
    this.#log = new RequestLog(options.trace);
    this.#life = new ClusterLife(options.input.devices.map(({ id }) => id));
    this.#life.deploy(options.plan.policy);
    this.#life.chosen(options.plan.ranks.map(({ device }) => device));
    this.#life.serving(this.#life.epoch);
    this.#serve(this.#epochOf(options.input, options.plan));
    for (const change of options.cluster?.changes ?? []) {
      this.#timeline.at(change.atSeconds, () => this.#change(change));
    }
  }

  run(): Simulated {
    for (;;) {
      const next = Math.min(
        this.#nextArrivalSeconds,
        this.#nextAnswerSeconds,
        this.#timeline.nextSeconds,
      );
      if (next === Number.POSITIVE_INFINITY) break;
      this.#advance(next);
      while (this.#nextAnswerSeconds === next) this.#answer();
      this.#timeline.runUntil(next);
      while (this.#nextArrivalSeconds === next) this.#arrive();
      this.#serving?.send(next);
    }
    this.#checkRest();
    return { report: this.#report(), records: this.#log.records };
  }

  get #nextArrivalSeconds(): number {
    return this.#options.trace[this.#arrived]?.atSeconds ?? Number.POSITIVE_INFINITY;
  }

  get #nextAnswerSeconds(): number {
    return this.#serving?.nextAnswerSeconds ?? Number.POSITIVE_INFINITY;
  }

  #advance(toSeconds: number): void {
    if (this.#serving !== null) {
      const share = this.#serving.scheduler.counts.kvBlocksUsed / this.#serving.kvBlocks;
      this.#kvShareSeconds += share * (toSeconds - this.#nowSeconds);
    }
    this.#nowSeconds = toSeconds;
  }

  #epochOf(input: PlanInput, plan: PlanOutput): SimulatedEpoch {
    const { limits, noise = 0, controlSeconds = 0 } = this.#options;
    const shared = { random: this.#random, computed: this.#computed };
    return new SimulatedEpoch({ input, plan, limits, noise, controlSeconds, ...shared });
  }

  #serve(epoch: SimulatedEpoch): void {
    this.#epochs.push(epoch);
    this.#serving = epoch;
    this.#goOn(epoch);
    for (const index of this.#newcomers) this.#offer(epoch, index);
    this.#newcomers.clear();
  }

  #arrive(): void {
    const index = this.#arrived;
    this.#arrived += 1;
    if (this.#serving === null) this.#awaitReturn(index);
    else this.#offer(this.#serving, index);
  }

  /** As in the controller (engine/returning.ts). */
  #awaitReturn(index: number): void {
    const { returnWaitSeconds = 0, returnWaitingMax = 0 } = this.#options.cluster ?? {};
    const untilSeconds = this.#endedSeconds + returnWaitSeconds;
    if (this.#nowSeconds >= untilSeconds) this.#log.end(index, 'refused-not-ready');
    else if (this.#newcomers.size >= returnWaitingMax) this.#log.end(index, 'refused-overloaded');
    else {
      this.#newcomers.add(index);
      this.#timeline.at(untilSeconds, () => {
        if (this.#newcomers.delete(index)) this.#log.end(index, 'refused-not-ready');
      });
    }
  }

  #offer({ scheduler }: SimulatedEpoch, index: number): void {
    try {
      scheduler.add(this.#requestOf(index));
    } catch (error) {
      const code = error instanceof HelsError ? error.code : 'internal';
      if (code === 'context-too-long') this.#log.end(index, 'refused-too-long');
      else if (code === 'overloaded') this.#log.end(index, 'refused-overloaded');
      else throw error;
    }
  }

  /** What is still to be computed of it. */
  #requestOf(index: number): GenerationRequest {
    const { promptTokens, outputTokens } = this.#options.trace[index] as Arrival;
    const given = this.#log.records[index]?.tokens ?? 0;
    return {
      requestId: String(index),
      // Which tokens they are changes no time.
      promptTokenIds: new Array<number>(promptTokens + given).fill(0),
      sampling: { temperature: 0, topP: 1, topK: 0, seed: 0, logprobs: -1 },
      maxTokens: outputTokens - given,
      stopTokenIds: [],
      prefixCache: null,
    };
  }

  #answer(): void {
    for (const event of this.#serving?.answer() ?? []) {
      const index = Number(event.requestId);
      if (event.type === 'token') this.#log.token(index, this.#nowSeconds);
      else this.#log.end(index, 'completed');
    }
  }

  #change({ type, device }: ClusterChange): void {
    if (type === 'worker-joined') {
      this.#life.enter(device);
      // A new life of a worker ends its old one at once.
      this.#notice(device);
      this.#follow(this.#life.joined());
      return;
    }
    if (!this.#life.present.has(device)) return;
    this.#life.leave(device);
    if (this.#life.isMember(device)) this.#serving?.lose();
    this.#unnoticed.add(device);
    const noticeSeconds = this.#options.cluster?.noticeSeconds ?? 0;
    this.#timeline.at(this.#nowSeconds + noticeSeconds, () => this.#notice(device));
  }

  #notice(device: string): void {
    if (this.#unnoticed.delete(device)) this.#follow(this.#life.noticeLoss(device));
  }

  /** Carries out what the group's machine decided. */
  #follow({ endEpoch, startEpoch }: Orders): void {
    if (endEpoch) this.#endEpoch();
    if (startEpoch !== null) this.#deploy(startEpoch);
  }

  /** Its requests go on in the next, as in the controller (engine/survivors.ts). */
  #endEpoch(): void {
    if (this.#serving === null) return;
    this.#serving = null;
    this.#endedSeconds = this.#nowSeconds;
    const held = this.#log.running(this.#arrived);
    this.#held = held;
    const heldSeconds = this.#options.cluster?.heldSeconds ?? 0;
    this.#timeline.at(this.#nowSeconds + heldSeconds, () => {
      if (this.#held !== held) return;
      for (const index of held) this.#log.end(index, 'failed');
      this.#held = [];
    });
  }

  #goOn({ scheduler }: SimulatedEpoch): void {
    const held = this.#held;
    this.#held = [];
    for (const index of held) {
      try {
        scheduler.add(this.#requestOf(index), this.#computed.get(String(index)) ?? 0);
      } catch (error) {
        if (!(error instanceof HelsError) || error.code !== 'context-too-long') throw error;
        this.#log.end(index, 'failed');
      }
    }
  }

  #deploy(epoch: number): void {
    const { input, plan, cluster } = this.#options;
    const devices = input.devices.filter(({ id }) => this.#life.present.has(id));
    let next: SimulatedEpoch;
    let members: string[];
    try {
      if (devices.length === 0) throw new HelsError('plan-infeasible', 'there are no workers');
      const over = { ...input, devices, policy: plan.policy };
      const made = planFor(over, () => 0);
      members = made.ranks.map(({ device }) => device);
      next = this.#epochOf(over, made);
    } catch (error) {
      if (!(error instanceof HelsError) || error.code !== 'plan-infeasible') throw error;
      this.#follow(this.#life.failed(error.message));
      return;
    }
    this.#life.chosen(members);
    this.#timeline.at(this.#nowSeconds + (cluster?.redeploySeconds ?? 0), () => {
      if (!this.#life.serving(epoch)) return;
      if (members.some((device) => !this.#life.present.has(device))) next.lose();
      this.#serve(next);
    });
  }

  #checkRest(): void {
    if (this.#serving === null) return;
    const { running, waiting } = this.#serving.scheduler.counts;
    if (running + waiting > 0) {
      throw new Error(`the scheduler came to rest with ${running} running, ${waiting} waiting`);
    }
    this.#serving.scheduler.checkIntegrity();
  }

  #report(): SimulationReport {
    const { input, plan, seed, serviceLevel, limits } = this.#options;
    return simulationReport({
      policy: plan.policy,
      feasible: plan.feasible,
      seed,
      serviceLevel,
      devices: input.devices.map(({ id }) => id),
      records: this.#log.records,
      tokenSeconds: this.#log.tokenSeconds,
      epochs: this.#epochs,
      kvBlockTokens: limits.kvBlockTokens,
      kvShareSeconds: this.#kvShareSeconds,
    });
  }
}

/** Throws plan-infeasible when the plan cannot serve a single token. */
export function simulate(options: SimulationOptions): Simulated {
  return new Simulation(options).run();
}
