/**
 * Drives the scheduler over the ranks of one epoch after the other: plans, sends each step to every rank, waits for all answers, hands
 * the tokens out. At most two steps are under way, so the ranks never wait for the controller.
 *
 *   serving --pause--> pausing --last answer--> paused --rebase--> proving --first answer--> serving
 *                                                 ^                   |
 *                                                 +----- failure -----+
 *
 * A re-plan moves the requests to the ranks of another epoch, at a step boundary; those that arrive meanwhile wait. Until the new ranks
 * have answered a step, their failure only pauses again, and other ranks can take over. Any other failure of any rank is the end: every
 * request gets exactly one `failed` event, unless its caller has said that it may go on elsewhere.
 */
import type { Clock } from '../../proto/base/clock.ts';
import { HelsError, toHelsError } from '../../proto/domain/errors.ts';
import type {
  GenerationEvent,
  GenerationRequest,
  TokenEvent,
} from '../../proto/domain/generation.ts';
import type { SampledToken__Output } from '../../proto/gen/hels/v1/SampledToken.ts';
import type { StepResponse__Output } from '../../proto/gen/hels/v1/StepResponse.ts';
import type { KeptRoom } from '../scheduler/hand-over.ts';
import type { PrefixHash } from '../scheduler/prefix-table.ts';
import { refuseRequest } from '../scheduler/refuse-request.ts';
import { Scheduler, type SchedulerLimits, type StepPlan } from '../scheduler/scheduler.ts';
import { StepPipeline } from '../scheduler/step-pipeline.ts';
import type { AsyncQueue } from './async-queue.ts';
import { Caller, type EpochEnded } from './caller.ts';
import { type EpochRanks, StepExchange } from './step-exchange.ts';
import { measurementOf, type StepMeasurement } from './step-measurement.ts';

export interface StepObserver {
  step(measurement: StepMeasurement): void;
  /** From arrival to the first step that names the request. */
  started(queueSeconds: number): void;
  /** A sequence that gave way computes again, or is over. */
  resumed(waitSeconds: number): void;
}

/** One epoch: its ranks, and what they hold. */
export interface EpochOptions extends EpochRanks {
  limits: SchedulerLimits;
}

export interface StepLoopOptions extends EpochOptions {
  term: number;
  /** null: no prefix cache. What it knows goes with the KV of the epoch. */
  prefixHash: PrefixHash | null;
  clock: Clock;
  observer: StepObserver;
  /** All is over; told once, after every request has been. */
  onFailed(error: HelsError): void;
}

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
  #sequencesMax: number;
  /** Positions that a new request may come to beside what the epoch holds: what the next one will hold, or the one before while there is a way back. */
  #reservedTokens = Number.POSITIVE_INFINITY;
  #paused = false;
  #boundary: Waiter[] = [];
  #proof: Waiter | null = null;
  #idle: (() => void)[] = [];
  #failure: HelsError | null = null;
  #draining = false;
  #steps = 0;

  constructor(options: StepLoopOptions) {
    this.#options = options;
    this.#sequencesMax = options.limits.sequencesMax;
    this.#scheduler = new Scheduler(options.limits, options.prefixHash);
    this.#pipeline = new StepPipeline(this.#scheduler);
    this.#exchange = this.#open(options);
  }

  /** Of the epoch: a re-plan brings another. */
  get scheduler(): Scheduler {
    return this.#scheduler;
  }

  get sequencesMax(): number {
    return this.#sequencesMax;
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

  /** Steps sent and not answered by the rank of this worker. */
  outstanding(workerId: string): boolean {
    return this.#exchange.outstanding(workerId);
  }

  /**
   * Refuses from now on what an epoch with KV of `kvTokens` positions cannot take; Infinity: nothing. Throws plan-infeasible when a
   * request that is here could not go on there.
   */
  reserve(kvTokens: number): void {
    const lengthMax = Math.max(0, ...this.#scheduler.requests.map((request) => request.lengthMax));
    if (lengthMax > kvTokens) {
      throw new HelsError(
        'plan-infeasible',
        `a request that is being served may come to ${lengthMax} tokens; the new plan holds KV of ${kvTokens}`,
      );
    }
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
    this.#scheduler = new Scheduler(epoch.limits, this.#options.prefixHash, handedOver);
    this.#pipeline = new StepPipeline(this.#scheduler);
    this.#sequencesMax = epoch.limits.sequencesMax;
    this.#exchange.close();
    this.#exchange = this.#open(epoch);
    this.#paused = false;
    return new Promise((resolve, reject) => {
      this.#proof = { resolve, reject };
      this.#pump();
      if (this.#exchange.underWay === 0) this.#proven();
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
    this.#pump();
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
    this.#pump();
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
  fail(error: HelsError): void {
    if (this.#failure !== null) return;
    this.close(error);
    this.#options.onFailed(error);
  }

  /** As fail, without telling: the caller ends the epoch by decision. */
  close(error: HelsError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#exchange.close();
    for (const { reject } of this.#boundary.splice(0)) reject(error);
    this.#proof?.reject(error);
    this.#proof = null;
    const callers = [...this.#callers.values()];
    this.#callers.clear();
    for (const caller of callers) {
      // Ranks that never answered, without a warm-up even: no request is to blame.
      if (this.#steps === 0) caller.named = false;
      this.#endWait(caller);
      caller.epochEnded(error);
    }
    this.#noteIdle();
  }

  #serve(requestId: string, caller: Caller): void {
    this.#callers.set(requestId, caller);
    caller.onLeft(() => this.#cancel(requestId));
  }

  #cancel(requestId: string): void {
    this.#scheduler.cancel(requestId);
    const error = new HelsError('cancelled', 'the caller went away');
    this.#finish(requestId, { type: 'failed', error });
    this.#pump();
  }

  #pump(): void {
    while (this.#failure === null && !this.#paused) {
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
      answered: (plan, responses) => this.#answered(plan, responses),
      failed: (error) => this.#exchangeFailed(error),
    });
  }

  /** New ranks that never answered have changed nothing: the requests can still go elsewhere. */
  #exchangeFailed(error: HelsError): void {
    const proof = this.#proof;
    if (proof === null) {
      this.fail(error);
      return;
    }
    this.#proof = null;
    this.#paused = true;
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

  #answered(plan: StepPlan, responses: readonly StepResponse__Output[]): void {
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
    this.#endWait(caller);
    caller.end(event);
    this.#noteIdle();
  }

  #noteIdle(): void {
    if (this.#callers.size > 0) return;
    for (const wake of this.#idle.splice(0)) wake();
  }
}

function tokenEventOf(sampled: SampledToken__Output, plan: StepPlan): TokenEvent {
  const sequence = plan.sequences.find(({ slot }) => slot === sampled.slot);
  const wanted = sequence?.sampling?.logprobs ?? -1;
  return {
    type: 'token',
    tokenId: sampled.tokenId,
    logprob: wanted < 0 ? null : sampled.logprob,
    topLogprobs: sampled.topLogprobs,
    cachedTokens: sequence?.cachedTokens ?? 0,
  };
}
