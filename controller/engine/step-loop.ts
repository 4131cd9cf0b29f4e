/**
 * Drives the scheduler over the ranks of one epoch: plans, sends each step to every rank, waits for all answers, hands the tokens out.
 * At most two steps are under way, so the ranks never wait for the controller. Any failure of any rank ends the epoch: every request
 * gets exactly one `failed` event.
 */
import type { Clock } from '../../proto/base/clock.ts';
import { HelsError, isErrorCode, toHelsError } from '../../proto/domain/errors.ts';
import type { GenerationEvent, GenerationRequest } from '../../proto/domain/generation.ts';
import type { StepLoad } from '../../proto/domain/step-load.ts';
import type { SampledToken__Output } from '../../proto/gen/hels/v1/SampledToken.ts';
import type { StepResponse__Output } from '../../proto/gen/hels/v1/StepResponse.ts';
import type { PrefixHash } from '../scheduler/prefix-table.ts';
import { Scheduler, type SchedulerLimits, type StepPlan } from '../scheduler/scheduler.ts';
import { stepLoadOf } from '../scheduler/step-load.ts';
import { StepPipeline } from '../scheduler/step-pipeline.ts';
import { AsyncQueue } from './async-queue.ts';
import type { OpenRankStream, RankStream } from './rank-stream.ts';

/** A step that takes this many times its prediction is stuck; never less than the floor, so that a short stall trips nothing. */
const deadlineFactor = 20;
const stepDeadlineMsMin = 10_000;
/** The ranks give up on a collective before the controller gives up on the step: their error says more. */
const collectiveDeadlineShare = 0.8;

export interface StepMeasurement {
  /** 0: the step only moved KV. */
  sequences: number;
  /** Every sequence gave one token. */
  decodeOnly: boolean;
  /** Sum over the tokens of the positions each attends to. */
  contextTokens: number;
  load: StepLoad;
  rankComputeSeconds: number[];
  /** In collectives, waiting for slower ranks included. */
  rankCollectiveSeconds: number[];
  /** Of the slowest rank, collectives included. */
  totalSeconds: number;
  moves: StepMoves;
  plan: StepPlan;
}

/** What a step did about KV that had made room. */
interface StepMoves {
  /** Moving blocks away and back, on the slowest rank. */
  seconds: number;
  reloadedTokens: number;
  /** Computed for the second time. */
  replayedTokens: number;
  computedTokens: number;
  /** By rank: exchanging about KV on loan. */
  rankRemoteSeconds: number[];
}

export interface StepObserver {
  step(measurement: StepMeasurement): void;
  /** From arrival to the first step that names the request. */
  started(queueSeconds: number): void;
  /** A sequence that gave way runs again. */
  resumed(waitSeconds: number): void;
}

export interface StepLoopOptions {
  term: number;
  epoch: number;
  limits: SchedulerLimits;
  /** null: no prefix cache. It ends with the loop, as the KV of the epoch does. */
  prefixHash: PrefixHash | null;
  /** By rank. */
  ranks: OpenRankStream[];
  predictedStepSeconds: number;
  clock: Clock;
  observer: StepObserver;
  /** The epoch is over; told once, after every request has been. */
  onFailed(error: HelsError): void;
}

interface InFlight {
  plan: StepPlan;
  /** By rank; a rank answers its steps in order. */
  responses: (StepResponse__Output | null)[];
  missing: number;
  timer: NodeJS.Timeout;
}

interface Client {
  queue: AsyncQueue<GenerationEvent>;
  arrivalMs: number;
  started: boolean;
  /** When its sequence gave way; null while it runs. */
  gaveWayMs: number | null;
  /** Stops listening to the caller's signal. */
  release(): void;
}

export class StepLoop {
  readonly scheduler: Scheduler;
  readonly #options: StepLoopOptions;
  readonly #pipeline: StepPipeline;
  readonly #streams: RankStream[];
  readonly #inFlight = new Map<number, InFlight>();
  readonly #clients = new Map<string, Client>();
  readonly #stepDeadlineMs: number;
  #idle: (() => void)[] = [];
  #failure: HelsError | null = null;
  #draining = false;
  #steps = 0;

  constructor(options: StepLoopOptions) {
    this.#options = options;
    this.scheduler = new Scheduler(options.limits, options.prefixHash);
    this.#pipeline = new StepPipeline(this.scheduler);
    this.#stepDeadlineMs = Math.max(
      stepDeadlineMsMin,
      deadlineFactor * options.predictedStepSeconds * 1000,
    );
    this.#streams = options.ranks.map((open, rank) =>
      open({
        response: (response) => this.#receive(rank, response),
        ended: (error) => this.fail(error),
      }),
    );
  }

  get sequencesMax(): number {
    return this.#options.limits.sequencesMax;
  }

  get cachesPrefixes(): boolean {
    return this.#options.prefixHash !== null;
  }

  get stepsFinished(): number {
    return this.#steps;
  }

  /** Steps sent and not answered by the rank of this worker. */
  outstanding(workerId: string): boolean {
    const rank = this.#streams.findIndex((stream) => stream.workerId === workerId);
    return [...this.#inFlight.values()].some(({ responses }) => responses[rank] === null);
  }

  /** Queues the request; throws what the scheduler refuses, draining, or what ended the epoch. */
  submit(request: GenerationRequest, signal: AbortSignal): AsyncGenerator<GenerationEvent> {
    if (this.#failure !== null) throw this.#failure;
    if (this.#draining) {
      throw new HelsError('draining', 'the server is stopping and takes no new requests');
    }
    this.scheduler.add(request);
    const { requestId } = request;
    // One token event per token and one end: the queue never fills by itself.
    const queue = new AsyncQueue<GenerationEvent>(request.maxTokens + 2);
    // Listened to from now on: the caller may go away before it reads anything.
    const cancel = () => this.#cancel(requestId);
    signal.addEventListener('abort', cancel, { once: true });
    const client: Client = {
      queue,
      arrivalMs: this.#options.clock.nowMs(),
      started: false,
      gaveWayMs: null,
      release: () => signal.removeEventListener('abort', cancel),
    };
    this.#clients.set(requestId, client);
    if (signal.aborted) cancel();
    this.#pump();
    return this.#deliver(requestId, client);
  }

  /** Running requests go on, new ones are refused; resolves when all have ended or after `deadlineMs`: closing then fails the rest. */
  async drain(deadlineMs: number): Promise<void> {
    this.#draining = true;
    if (this.#clients.size === 0) return;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, deadlineMs);
    });
    await Promise.race([new Promise<void>((resolve) => this.#idle.push(resolve)), late]);
    clearTimeout(timer);
  }

  /** Ends the epoch: every request fails with this error, the streams close. Idempotent. */
  fail(error: HelsError): void {
    if (this.#failure !== null) return;
    this.close(error);
    this.#options.onFailed(error);
  }

  /** As fail, without telling: the caller ends the epoch by decision. */
  close(error: HelsError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    for (const { timer } of this.#inFlight.values()) clearTimeout(timer);
    this.#inFlight.clear();
    for (const stream of this.#streams) stream.close();
    for (const requestId of [...this.#clients.keys()])
      this.#finish(requestId, { type: 'failed', error });
  }

  async *#deliver(requestId: string, client: Client): AsyncGenerator<GenerationEvent> {
    try {
      yield* client.queue.read();
    } finally {
      if (this.#clients.get(requestId) === client) this.#cancel(requestId);
    }
  }

  #cancel(requestId: string): void {
    this.scheduler.cancel(requestId);
    const error = new HelsError('cancelled', 'the caller went away');
    this.#finish(requestId, { type: 'failed', error });
    this.#pump();
  }

  #pump(): void {
    while (this.#failure === null) {
      const plan = this.#pipeline.next();
      this.#noteTurns();
      if (plan === null) return;
      this.#send(plan);
    }
  }

  #noteTurns(): void {
    const { clock, observer } = this.#options;
    for (const { type, requestId } of this.scheduler.takeTurns()) {
      const client = this.#clients.get(requestId);
      if (client === undefined) continue;
      if (type === 'gave-way') client.gaveWayMs = clock.nowMs();
      else if (client.gaveWayMs !== null) {
        observer.resumed((clock.nowMs() - client.gaveWayMs) / 1000);
        client.gaveWayMs = null;
      }
    }
  }

  #send(plan: StepPlan): void {
    const { term, epoch, clock, observer } = this.#options;
    for (const { requestId } of plan.sequences) {
      const client = this.#clients.get(requestId);
      if (client === undefined || client.started) continue;
      client.started = true;
      observer.started((clock.nowMs() - client.arrivalMs) / 1000);
    }
    const timer = setTimeout(() => this.#late(plan.step), this.#stepDeadlineMs);
    const responses = this.#streams.map(() => null);
    this.#inFlight.set(plan.step, { plan, responses, missing: responses.length, timer });
    const request = {
      fence: { term, epoch },
      step: plan.step,
      sequences: plan.sequences,
      kvMoves: [...plan.moves],
      collectiveDeadlineMs: Math.round(this.#stepDeadlineMs * collectiveDeadlineShare),
    };
    for (const stream of this.#streams) stream.send(request);
  }

  #late(step: number): void {
    const responses = this.#inFlight.get(step)?.responses ?? [];
    const silent = this.#streams
      .filter((_, rank) => responses[rank] === null)
      .map(({ workerId }) => `'${workerId}'`);
    const message = `step ${step} was not answered within ${this.#stepDeadlineMs} ms by ${silent.join(', ')}`;
    this.fail(new HelsError('worker-lost', message));
  }

  #receive(rank: number, response: StepResponse__Output): void {
    if (this.#failure !== null) return;
    const workerId = this.#streams[rank]?.workerId ?? String(rank);
    if (response.error !== null) {
      const { code, message } = response.error;
      const known = isErrorCode(code) ? code : 'worker-lost';
      this.fail(new HelsError(known, `worker '${workerId}', step ${response.step}: ${message}`));
      return;
    }
    const flight = this.#inFlight.get(response.step);
    if (flight === undefined || flight.responses[rank] !== null) {
      const message = `worker '${workerId}' answered step ${response.step}, which it was not asked`;
      this.fail(new HelsError('internal', message));
      return;
    }
    flight.responses[rank] = response;
    flight.missing -= 1;
    if (flight.missing === 0) this.#complete(flight);
  }

  #complete(flight: InFlight): void {
    const { plan } = flight;
    clearTimeout(flight.timer);
    this.#inFlight.delete(plan.step);
    this.#steps += 1;
    const responses = flight.responses.filter((response) => response !== null);
    const [first, ...others] = responses;
    if (first === undefined || others.some((other) => !sameTokens(first, other))) {
      this.fail(new HelsError('internal', `the ranks disagree on the tokens of step ${plan.step}`));
      return;
    }
    const events = this.#apply(plan.step, first.sampled);
    if (events === null) return;
    // The next step leaves before the tokens of this one are handed out.
    this.#pump();
    for (const event of events) {
      const client = this.#clients.get(event.requestId);
      if (event.type === 'token') client?.queue.push(tokenEventOf(event.sampled, plan));
      else this.#finish(event.requestId, { type: 'finished', reason: event.reason });
    }
    this.#options.observer.step(measurementOf(plan, responses));
  }

  /** null: the answer breaks the rules of the stream, and the epoch is over. */
  #apply(step: number, sampled: readonly SampledToken__Output[]) {
    try {
      return this.#pipeline.answer(step, sampled);
    } catch (error) {
      const { message } = toHelsError(error);
      this.fail(new HelsError('internal', `the ranks' answer is not valid: ${message}`));
      return null;
    }
  }

  #finish(requestId: string, event: GenerationEvent): void {
    const client = this.#clients.get(requestId);
    if (client === undefined) return;
    this.#clients.delete(requestId);
    client.release();
    client.queue.push(event);
    client.queue.end();
    if (this.#clients.size > 0) return;
    for (const wake of this.#idle.splice(0)) wake();
  }
}

function sameTokens(first: StepResponse__Output, other: StepResponse__Output): boolean {
  return (
    first.sampled.length === other.sampled.length &&
    first.sampled.every(
      ({ slot, tokenId }, index) =>
        slot === other.sampled[index]?.slot && tokenId === other.sampled[index]?.tokenId,
    )
  );
}

function tokenEventOf(sampled: SampledToken__Output, plan: StepPlan): GenerationEvent {
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

/** A sequence with one token decodes, one with more is a chunk of prefill; each token attends to all before it and to itself. */
function measurementOf(
  plan: StepPlan,
  responses: readonly StepResponse__Output[],
): StepMeasurement {
  const load = stepLoadOf(plan);
  return {
    sequences: plan.sequences.length,
    decodeOnly: load.prefillTokens === 0,
    contextTokens: load.decodeContextTokens + load.prefillContextTokens,
    load,
    rankComputeSeconds: responses.map(({ computeSeconds }) => computeSeconds),
    rankCollectiveSeconds: responses.map(({ collectiveSeconds }) => collectiveSeconds),
    totalSeconds: Math.max(...responses.map(({ totalSeconds }) => totalSeconds)),
    moves: {
      seconds: Math.max(...responses.map(({ moveSeconds }) => moveSeconds)),
      reloadedTokens: plan.reloadedTokens,
      replayedTokens: plan.replayedTokens,
      computedTokens: load.decodeTokens + load.prefillTokens,
      rankRemoteSeconds: responses.map(({ remoteSeconds }) => remoteSeconds),
    },
    plan,
  };
}
