/** Looks every few seconds whether another plan would be better at the load that is served, and begins a re-plan when it is time. */
import type { Clock } from '../../proto/base/clock.ts';
import type { Logger } from '../../proto/base/log.ts';
import { HelsError, toHelsError } from '../../proto/domain/errors.ts';
import type { PlanInput } from '../../proto/domain/plan.ts';
import type { StepLoad } from '../../proto/domain/step-load.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { DeploymentRequest, Group } from '../cluster/group.ts';
import { groupSeconds } from '../planner/lockstep.ts';
import { plannedShares } from '../planner/planned-shares.ts';
import { rankSeconds } from '../planner/step-seconds.ts';
import { type PayBack, payBackOf } from '../profiler/drift.ts';
import { choosesFreely, type LoadedGroup, workloadOf } from './deployment-run.ts';
import { workloadAt } from './operating-point.ts';
import { plannedRanksOf } from './plan-report.ts';
import { beganServing, decideReplan, isWorthIt, type ReplanState } from './replan-decision.ts';
import type { Proposal } from './replan-proposal.ts';
import type { ReplanService } from './replan-service.ts';

/** Much longer than a plan takes (plan-thread.ts), much shorter than a decision, which takes half a minute. */
const lookIntervalMs = 5_000;

/** Whether the controller plans anew by itself for this deployment: a split by hand or another policy is what somebody wants to see. */
export function plansAnew(request: DeploymentRequest): boolean {
  return request.autoReplan !== false && choosesFreely(request);
}

export interface AutoReplanOptions {
  coordinator: { readonly group: Group; readonly serving: { loaded: LoadedGroup } | null };
  replanner: Pick<ReplanService, 'propose' | 'pauseOf' | 'checkFiles' | 'apply'>;
  /** The mean step of the last seconds and how many steps it knows of; null before the first. */
  served: () => { load: StepLoad; steps: number } | null;
  /** The epoch in which the last re-plan failed or was gone back on; null: neither. */
  lastTrouble: () => number | null;
  clock: Clock;
  log: Logger;
}

/** A plan that could not be loaded would interrupt service again and again. */
const holdAfterTroubleMs = 60 * 60_000;

/** A step of this load with the plan's split; Infinity when a device of it is not there. */
function secondsAt(input: PlanInput, plan: ShardPlan__Output, load: StepLoad): number {
  const ranks = plannedRanksOf(plan);
  const known = new Set(input.devices.map(({ id }) => id));
  if (ranks.some(({ device }) => !known.has(device))) return Number.POSITIVE_INFINITY;
  const seconds = rankSeconds(input, plannedShares(input, { ranks }), load);
  return groupSeconds(
    seconds.filter((rank) => rank !== null),
    input.objective === 'lockstep',
  );
}

const kvTokensOf = ({ kvBlocks, kvBlockTokens }: ShardPlan__Output) => kvBlocks * kvBlockTokens;

interface Candidate {
  readonly proposal: Proposal;
  readonly value: PayBack;
}

/** The most sequences that fit are searched for, and workers seldom come back. */
const roomLookIntervalMs = 60_000;
/** Times the room that there is. */
const moreRoomMin = 1.1;
const neverLooked = { epoch: 0, untilMs: 0, found: null as Candidate | null };

export class AutoReplan {
  readonly #options: AutoReplanOptions;
  #state: ReplanState = { sinceMs: null, holdUntilMs: 0 };
  #nextLookMs = 0;
  #rest: { trouble: number | null; untilMs: number } = { trouble: null, untilMs: 0 };
  #epoch = 0;
  #roomLook = neverLooked;
  #steps = 0;
  /** It plans, or a re-plan is on its way; another would be of the same moment. */
  #busy = false;

  constructor(options: AutoReplanOptions) {
    this.#options = options;
  }

  /** To be called often. */
  tick(): void {
    const { coordinator, clock } = this.#options;
    const { epoch, phase, request } = coordinator.group;
    const nowMs = clock.nowMs();
    if (phase !== 'ready' || request === null || nowMs < this.#nextLookMs) return;
    this.#nextLookMs = nowMs + lookIntervalMs;
    if (epoch !== this.#epoch) {
      this.#epoch = epoch;
      const { sinceMs, holdUntilMs } = beganServing(nowMs);
      const untilMs = Math.max(holdUntilMs, this.#restUntilMs(nowMs));
      this.#state = { sinceMs, holdUntilMs: untilMs };
    }
    if (plansAnew(request) && !this.#busy) void this.#look(request, nowMs);
  }

  /** Never rejects. */
  async #look(request: DeploymentRequest, nowMs: number): Promise<void> {
    this.#busy = true;
    try {
      if (await this.#isTime(request, nowMs)) await this.#begin();
    } catch (error) {
      this.#stays(error);
    } finally {
      this.#busy = false;
    }
  }

  /** The rest after trouble is counted once, however many epochs follow it. */
  #restUntilMs(nowMs: number): number {
    const trouble = this.#options.lastTrouble();
    if (trouble === null) this.#rest = { trouble, untilMs: 0 };
    else if (trouble !== this.#rest.trouble) {
      this.#rest = { trouble, untilMs: nowMs + holdAfterTroubleMs };
    }
    return this.#rest.untilMs;
  }

  async #isTime(request: DeploymentRequest, nowMs: number): Promise<boolean> {
    const { steps } = this.#options.served() ?? { steps: this.#steps };
    const isServed = steps !== this.#steps;
    this.#steps = steps;
    const found = isServed ? await this.#candidate(request) : null;
    const { state, replan } = decideReplan(this.#state, found?.value ?? null, nowMs);
    this.#state = state;
    return replan;
  }

  /** Reading changed files can take minutes: what is applied is proposed after it, if it still pays then. */
  async #begin(): Promise<void> {
    const { replanner, coordinator } = this.#options;
    await replanner.checkFiles();
    const { request, phase } = coordinator.group;
    this.#roomLook = neverLooked;
    if (request === null || phase !== 'ready' || !plansAnew(request)) return;
    const found = await this.#candidate(request);
    if (found === null || !isWorthIt(found.value)) return;
    // Its end is told by the log of re-plans.
    await replanner.apply(found.proposal, 'load');
  }

  /** No split fits the load of this moment, a request does not fit the new one, files changed. Anything else is a fault of ours, and no reason to stop serving. */
  #stays(error: unknown): void {
    const { log } = this.#options;
    const { message } = toHelsError(error);
    if (error instanceof HelsError) log.info('no new plan', { reason: message });
    else log.error('planning anew failed', { error: message });
  }

  /** Where there is less room for KV than the deployment is for, after a loss mostly: a plan with clearly more, worth any move; null: there is none. */
  async #roomier(request: DeploymentRequest, loaded: LoadedGroup): Promise<Candidate | null> {
    const { replanner, clock } = this.#options;
    const now = kvTokensOf(loaded.shardPlan);
    const { epoch, untilMs, found } = this.#roomLook;
    if (now >= promisedTokens(loaded, request)) return null;
    if (epoch === this.#epoch && clock.nowMs() < untilMs) return found;
    const wish = { policy: '', ranks: [], workload: null, settles: true };
    const proposal = await replanner.propose(wish);
    const isMore = kvTokensOf(proposal.made.shardPlan) >= moreRoomMin * now;
    const value = { gainPerSecond: Number.POSITIVE_INFINITY, seconds: 0 };
    this.#roomLook = {
      epoch: this.#epoch,
      untilMs: clock.nowMs() + roomLookIntervalMs,
      found: proposal.equal || !isMore ? null : { proposal, value },
    };
    return this.#roomLook.found;
  }

  /** The best plan at the load that is served, and what it is worth; null: no load, no other plan, or one with too little room for KV. */
  async #candidate(request: DeploymentRequest): Promise<Candidate | null> {
    const { replanner, served, coordinator } = this.#options;
    const now = served();
    const loaded = coordinator.serving?.loaded;
    if (now === null || loaded === undefined) return null;
    const roomier = await this.#roomier(request, loaded);
    if (roomier !== null) return roomier;
    const point = workloadAt(now.load);
    if (point === null) return null;
    const sizes = { prefillChunk: 0, outputTokens: 0 };
    const workload = { ...sizes, ...request.workload, ...point };
    const proposal = await replanner.propose({ policy: '', ranks: [], workload });
    const { made, equal } = proposal;
    if (equal || !holdsPromise(loaded, request, made.shardPlan)) return null;
    const pause = replanner.pauseOf(proposal);
    const value = payBackOf({
      stepSeconds: secondsAt(made.input, loaded.shardPlan, now.load),
      replannedStepSeconds: secondsAt(made.input, made.shardPlan, now.load),
      movingSeconds: pause.seconds + pause.replaySeconds,
    });
    return { proposal, value };
  }
}

/** What the deployment is for. */
function promisedTokens(
  { planRequest }: Pick<LoadedGroup, 'planRequest'>,
  request: Pick<DeploymentRequest, 'workload'>,
): number {
  const { sequences, contextTokens } = workloadOf(request, planRequest.model);
  return sequences * contextTokens;
}

/** The load of this moment may be light, and that of the re-plan before; room for the one that the deployment is for stays. */
export function holdsPromise(
  loaded: Pick<LoadedGroup, 'shardPlan' | 'planRequest'>,
  request: Pick<DeploymentRequest, 'workload'>,
  next: ShardPlan__Output,
): boolean {
  const promised = promisedTokens(loaded, request);
  return kvTokensOf(next) >= Math.min(kvTokensOf(loaded.shardPlan), promised);
}
