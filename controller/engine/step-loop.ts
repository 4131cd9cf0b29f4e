/**
 * Drives the scheduler over the ranks of one epoch after the other: plans, sends each step to every rank, waits for all answers, hands
 * the tokens out. At most two steps are under way, so the ranks never wait for the controller.
 *
 *   serving --pause--> pausing --last answer--> paused --rebase--> proving --first answer--> serving
 *                                                 ^                   |
 *                                                 +----- failure -----+
 *
 * What all ranks refuse before any work ends the request it is due to. The others go on in the same epoch once nothing is under way,
 * and compute their KV again: steps after the refused one may have read what it was to write.
 *
 * A re-plan moves the requests to the ranks of another epoch, at a step boundary; those that arrive meanwhile wait. Until the new ranks
 * have answered a step, their failure only pauses again, and other ranks can take over. Any other failure of any rank is the end: every
 * request gets exactly one `failed` event, unless its caller has said that it may go on elsewhere. So is what is thrown in here, by the
 * scheduler or by whoever hears of the steps: it never leaves the loop, whose callers are sockets and timers.
 */
import { HelsError, toHelsError } from '../../proto/domain/errors.ts';
import type {
  GenerationEvent,
  GenerationRequest,
  TokenEvent,
} from '../../proto/domain/generation.ts';
import type { SampledToken__Output } from '../../proto/gen/hels/v1/SampledToken.ts';
import type { StepResponse__Output } from '../../proto/gen/hels/v1/StepResponse.ts';
import { type HandOver, type KeptRoom, nothingKept } from '../scheduler/hand-over.ts';
import { refuseLessRoom, refuseRequest } from '../scheduler/refuse-request.ts';
import { Scheduler, type SchedulerLimits, type StepPlan } from '../scheduler/scheduler.ts';
import { StepPipeline } from '../scheduler/step-pipeline.ts';
import type { AsyncQueue } from './async-queue.ts';
import { Caller, type EpochEnded } from './caller.ts';
import { isOurFault, ourFault } from './our-fault.ts';
import { StepExchange } from './step-exchange.ts';
import type { EpochOptions, StepLoopOptions } from './step-loop-options.ts';
import { measurementOf } from './step-measurement.ts';
import { tokenEventOf } from './token-event.ts';

/** Someone waits for a step boundary, or for the first answer of new ranks. */
interface Waiter {
  resolve(): void;
  reject(error: HelsError): void;
}

export class StepLoop {
  readonly #options: StepLoopOptions;
  readonly #callers = new Map<string, Caller>();
  #scheduler: Scheduler;
  #pipeline: StepPipeline;
  #exchange: StepExchange;
  /** Of the epoch. */
  #limits: SchedulerLimits;
  /** Positions that a new request may come to beside what the epoch holds: what the next one will hold, or the one before while there is a way back. */
  #reservedTokens = Number.POSITIVE_INFINITY;
  #paused = false;
  /** A step was refused; no other is planned before all that are under way are answered. */
  #refusing = false;
  #boundary: Waiter[] = [];
  #proof: Waiter | null = null;
  #idle: (() => void)[] = [];
  #failure: HelsError | null = null;
  #draining = false;
  #steps = 0;

  constructor(options: StepLoopOptions) {
    this.#options = options;
    this.#limits = options.limits;
    this.#scheduler = new Scheduler(options.limits, options.prefixHash);
    this.#pipeline = new StepPipeline(this.#scheduler);
    this.#exchange = this.#open(options);
  }

  /** Of the epoch: a re-plan brings another. */
  get scheduler(): Scheduler {
    return this.#scheduler;
  }

  get sequencesMax(): number {
    return this.#limits.sequencesMax;
  }

  /** Positions that a new request may come to: what the epoch takes, and the one that is being prepared or gone back to. */
  get contextTokensMax(): number {
    return Math.min(this.#scheduler.contextTokensMax, this.#reservedTokens);
  }

  get cachesPrefixes(): boolean {
    return this.#options.prefixHash !== null;
  }

  get stepsFinished(): number {
    return this.#steps;
  }

  /** What ended it; null while it goes on. */
  get failure(): HelsError | null {
    return this.#failure;
  }

  /** Steps sent and not answered by the rank of this worker. */
  outstanding(workerId: string): boolean {
    return this.#exchange.outstanding(workerId);
  }

  /**
   * Refuses from now on what an epoch with KV of `kvTokens` positions cannot take; Infinity: nothing. Throws plan-infeasible when a
   * request that is here could not go on there.
   */
  reserve(kvTokens: number): void {
    refuseLessRoom(this.#scheduler.requests, kvTokens);
    this.#reservedTokens = kvTokens;
  }

  /** Plans no further step. Resolves when every rank has answered all that were sent; rejects with what ended the loop before. */
  pause(): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    this.#paused = true;
    return new Promise((resolve, reject) => {
      this.#boundary.push({ resolve, reject });
      this.#reachBoundary();
    });
  }

  /**
   * Goes on with the ranks of another epoch, which hold the KV that `kept` says as it was. Only when paused. Resolves when
   * they have answered their first step, or at once when there is nothing to do; when they fail before, rejects and is paused again.
   */
  rebase(epoch: EpochOptions, kept: KeptRoom): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    const handedOver = this.#scheduler.handOver({
      kvBlockTokens: epoch.limits.kvBlockTokens,
      kept,
    });
    this.#reservedTokens = this.#scheduler.contextTokensMax;
    return new Promise((resolve, reject) => {
      this.#proof = { resolve, reject };
      this.#guard(() => {
        this.#schedule(epoch.limits, handedOver);
        this.#exchange.close();
        this.#exchange = this.#open(epoch);
        this.#paused = false;
        this.#pump();
        if (this.#exchange.underWay === 0) this.#proven();
      });
    });
  }

  /** Queues the request; throws what the scheduler refuses, draining, or what ended the epoch. */
  submit(
    request: GenerationRequest,
    signal: AbortSignal,
    epochEnded: EpochEnded | null = null,
  ): AsyncQueue<GenerationEvent> {
    if (this.#failure !== null) throw this.#failure;
    if (this.#draining) {
      throw new HelsError('draining', 'the server is stopping and takes no new requests');
    }
    const { contextTokensMax } = this.#options.limits;
    refuseRequest(request, { contextTokensMax, kvTokens: this.#reservedTokens });
    this.#scheduler.add(request);
    const caller = new Caller(request, signal, this.#options.clock.nowMs(), epochEnded);
    this.#serve(request.requestId, caller);
    this.#guard(() => this.#pump());
    return caller.queue;
  }

  /** Goes on with requests of an epoch that has ended, in the order given. Those that do not fit here are given back with the reason. */
  takeOver(callers: readonly Caller[]): { caller: Caller; error: HelsError }[] {
    const refused: { caller: Caller; error: HelsError }[] = [];
    for (const caller of callers) {
      const rest = caller.restWithin(this.contextTokensMax);
      try {
        if (this.#failure !== null) throw this.#failure;
        if (rest === null) {
          caller.end({ type: 'finished', reason: 'length' });
          continue;
        }
        this.#scheduler.add(rest, caller.computed);
        caller.named = false;
        this.#serve(rest.requestId, caller);
      } catch (error) {
        refused.push({ caller, error: toHelsError(error) });
      }
    }
    this.#guard(() => this.#pump());
    return refused;
  }

  /** Running requests go on, new ones are refused; resolves when all have ended or after `deadlineMs`: closing then fails the rest. */
  async drain(deadlineMs: number): Promise<void> {
    this.#draining = true;
    if (this.#callers.size === 0) return;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, deadlineMs);
    });
    await Promise.race([new Promise<void>((resolve) => this.#idle.push(resolve)), late]);
    clearTimeout(timer);
  }

  /** Ends the epoch with this error, and with it every request that may not go on elsewhere; the streams close. Idempotent. */
  fail(error: HelsError, requestId: string | null = null): void {
    if (this.#failure !== null) return;
    this.close(error, requestId);
    this.#options.onFailed(error);
  }

  /** As fail, without telling: the caller ends the epoch by decision. `requestId`: whose fault it is; null: nobody knows. */
  close(error: HelsError, requestId: string | null = null): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#exchange.close();
    for (const { reject } of this.#boundary.splice(0)) reject(error);
    this.#proof?.reject(error);
    this.#proof = null;
    const callers = [...this.#callers];
    this.#callers.clear();
    for (const [id, caller] of callers) {
      // Ranks that never answered, without a warm-up even: no request is to blame, but one that is known to be. A fault of ours may be any's.
      const isNobodys = this.#steps === 0 && !isOurFault(error);
      if (id !== requestId && (isNobodys || requestId !== null)) caller.named = false;
      this.#guard(() => this.#endWait(caller));
      caller.epochEnded(error);
    }
    this.#noteIdle();
  }

  /** What is thrown in `work` is a fault of ours, and nobody knows what it left half done: the end of the epoch, not of the process. */
  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.fail(ourFault(error));
    }
  }

  #serve(requestId: string, caller: Caller): void {
    this.#callers.set(requestId, caller);
    caller.onLeft(() => this.#guard(() => this.#cancel(requestId)));
  }

  #cancel(requestId: string): void {
    this.#scheduler.cancel(requestId);
    const error = new HelsError('cancelled', 'the caller went away');
    this.#finish(requestId, { type: 'failed', error });
    this.#pump();
  }

  #pump(): void {
    while (this.#failure === null && !this.#paused && !this.#refusing) {
      const plan = this.#pipeline.next();
      this.#noteTurns();
      if (plan === null) return;
      this.#send(plan);
    }
  }

  #noteTurns(): void {
    for (const { type, requestId } of this.#scheduler.takeTurns()) {
      const caller = this.#callers.get(requestId);
      if (caller === undefined) continue;
      if (type === 'gave-way') caller.gaveWayMs = this.#options.clock.nowMs();
      else this.#endWait(caller);
    }
  }

  #endWait(caller: Caller): void {
    if (caller.gaveWayMs === null) return;
    const { clock, observer } = this.#options;
    observer.resumed((clock.nowMs() - caller.gaveWayMs) / 1000);
    caller.gaveWayMs = null;
  }

  #send(plan: StepPlan): void {
    const { clock, observer } = this.#options;
    for (const { requestId } of plan.sequences) {
      const caller = this.#callers.get(requestId);
      if (caller === undefined || caller.named) continue;
      caller.named = true;
      if (caller.started) continue;
      caller.started = true;
      observer.started((clock.nowMs() - caller.arrivalMs) / 1000);
    }
    this.#exchange.send(plan);
  }

  #open(epoch: EpochOptions): StepExchange {
    return new StepExchange(this.#options.term, epoch, {
      answered: (...answer) => this.#guard(() => this.#answered(...answer)),
      refused: (...refusal) => this.#guard(() => this.#refused(...refusal)),
      failed: (...failure) => this.#guard(() => this.#exchangeFailed(...failure)),
    });
  }

  /** New ranks that never answered have changed nothing: the requests can still go elsewhere. */
  #exchangeFailed(error: HelsError, requestId: string | null): void {
    const proof = this.#proof;
    if (proof === null) {
      this.fail(error, requestId);
      return;
    }
    this.#paused = true;
    this.#refusing = false;
    if (requestId !== null) this.#endGuilty(requestId, error);
    this.#proof = null;
    proof.reject(error);
    // Nothing is under way now: whoever asked for a pause before the new ranks failed has it, and no answer will tell.
    this.#reachBoundary();
  }

  #proven(): void {
    if (this.#proof === null) return;
    this.#proof.resolve();
    this.#proof = null;
    this.#reservedTokens = Number.POSITIVE_INFINITY;
  }

  #reachBoundary(): void {
    if (!this.#paused || this.#exchange.underWay > 0) return;
    this.#exchange.retire();
    for (const { resolve } of this.#boundary.splice(0)) resolve();
  }

  #schedule(limits: SchedulerLimits, handedOver: HandOver): void {
    this.#options.observer.countsEnd();
    this.#limits = limits;
    this.#scheduler = new Scheduler(limits, this.#options.prefixHash, handedOver);
    this.#pipeline = new StepPipeline(this.#scheduler);
  }

  /** One that comes after a refused step is due to that. */
  #refused({ step }: StepPlan, requestId: string, error: HelsError): void {
    if (!this.#refusing) {
      this.#refusing = true;
      this.#endGuilty(requestId, error);
    }
    this.#afterRefusal(step);
  }

  #endGuilty(requestId: string, error: HelsError): void {
    this.#scheduler.cancel(requestId);
    this.#finish(requestId, { type: 'failed', error });
  }

  /** `step`: the newest answer, of which nothing is taken. */
  #afterRefusal(step: number): void {
    if (this.#exchange.underWay > 0) return;
    this.#refusing = false;
    const { kvBlockTokens } = this.#limits;
    const handedOver = this.#scheduler.handOver({ kvBlockTokens, kept: nothingKept });
    this.#schedule(this.#limits, { ...handedOver, steps: step });
    this.#pump();
    if (this.#exchange.underWay === 0) this.#proven();
    this.#reachBoundary();
  }

  #answered(plan: StepPlan, responses: readonly StepResponse__Output[]): void {
    if (this.#refusing) {
      this.#afterRefusal(plan.step);
      return;
    }
    this.#steps += 1;
    const events = this.#apply(plan.step, responses[0]?.sampled ?? []);
    if (events === null) return;
    this.#proven();
    // The next step leaves before the tokens of this one are handed out.
    this.#pump();
    for (const event of events) {
      const caller = this.#callers.get(event.requestId);
      if (event.type === 'token') caller?.give(tokenEventOf(event.sampled, plan));
      else this.#finish(event.requestId, { type: 'finished', reason: event.reason });
    }
    this.#options.observer.step(measurementOf(plan, responses));
    this.#reachBoundary();
  }

  /** null: the answer breaks the rules of the stream, and the epoch is over. */
  #apply(step: number, sampled: readonly SampledToken__Output[]) {
    try {
      return this.#pipeline.answer(step, sampled);
    } catch (error) {
      const { message } = toHelsError(error);
      // Some tokens of the step may be with their sequences and not with their readers: nobody can go on from here.
      this.fail(new HelsError('internal', `the ranks' answer is not valid: ${message}`));
      return null;
    }
  }

  #finish(requestId: string, event: Exclude<GenerationEvent, TokenEvent>): void {
    const caller = this.#callers.get(requestId);
    if (caller === undefined) return;
    this.#callers.delete(requestId);
    caller.end(event);
    this.#endWait(caller);
    this.#noteIdle();
  }

  #noteIdle(): void {
    if (this.#callers.size > 0) return;
    for (const wake of this.#idle.splice(0)) wake();
  }
}
