/**
 * Carries the steps of one epoch to all its ranks and brings back what all of them answered. Any failure of any rank is its end; a step
 * that all of them refuse before any work is none.
 */
import { HelsError, isErrorCode } from '../../proto/domain/errors.ts';
import type { StepError__Output } from '../../proto/gen/hels/v1/StepError.ts';
import type { StepResponse__Output } from '../../proto/gen/hels/v1/StepResponse.ts';
import type { StepPlan } from '../scheduler/scheduler.ts';
import type { OpenRankStream, RankStream } from './rank-stream.ts';

/** A step that takes this many times its prediction is stuck; never less than the floor, so that a short stall trips nothing. */
const deadlineFactor = 20;
const stepDeadlineMsMin = 10_000;
/** After the deadline, for answers that are there and not read: in a process that stood still, timers come before sockets. */
const unreadAnswersMs = 1_000;
/** The ranks give up on a collective before the controller gives up on the step: their error says more. */
const collectiveDeadlineShare = 0.8;
/** How native/base/error.h calls a step that does not fit model or epoch. */
const refusedCode = 'shape-invalid';
/** What ranks say whom another has left: why it did, it may say itself, within this time. */
const echoCodes: ReadonlySet<string> = new Set(['peer-lost', 'deadline-exceeded', 'aborted']);
const rootCauseWaitMs = 500;

/** The ranks of one epoch. */
export interface EpochRanks {
  epoch: number;
  /** By rank. */
  ranks: OpenRankStream[];
  predictedStepSeconds: number;
}

export interface ExchangeListener {
  /** All ranks answered, with the same tokens; in the order of the steps. */
  answered(plan: StepPlan, responses: readonly StepResponse__Output[]): void;
  /** Instead of `answered`: nothing of the step was done, for what is wrong with this request. */
  refused(plan: StepPlan, requestId: string, error: HelsError): void;
  /** At most once, and nothing after it; the streams are closed. `requestId`: the one it is about; null: nobody knows. */
  failed(error: HelsError, requestId: string | null): void;
}

interface InFlight {
  plan: StepPlan;
  /** By rank; a rank answers its steps in order. */
  responses: (StepResponse__Output | null)[];
  missing: number;
  timer: NodeJS.Timeout;
}

export class StepExchange {
  readonly #fence: { term: number; epoch: number };
  readonly #listener: ExchangeListener;
  readonly #streams: RankStream[];
  readonly #inFlight = new Map<number, InFlight>();
  readonly #stepDeadlineMs: number;
  /** By rank: what only says that another one has left. */
  readonly #echoes = new Map<number, HelsError>();
  #echoTimer: NodeJS.Timeout | undefined;
  #over = false;

  constructor(term: number, epoch: EpochRanks, listener: ExchangeListener) {
    this.#fence = { term, epoch: epoch.epoch };
    this.#listener = listener;
    this.#stepDeadlineMs = Math.max(
      stepDeadlineMsMin,
      deadlineFactor * epoch.predictedStepSeconds * 1000,
    );
    this.#streams = epoch.ranks.map((open, rank) =>
      open({
        response: (response) => this.#receive(rank, response),
        ended: (error) => {
          if (!this.#echoes.has(rank)) this.#fail(error);
        },
      }),
    );
  }

  /** Steps sent and not answered by all ranks. */
  get underWay(): number {
    return this.#inFlight.size;
  }

  /** Steps sent and not answered by the rank of this worker. */
  outstanding(workerId: string): boolean {
    const rank = this.#streams.findIndex((stream) => stream.workerId === workerId);
    return [...this.#inFlight.values()].some(({ responses }) => responses[rank] === null);
  }

  send(plan: StepPlan): void {
    const timer = setTimeout(() => this.#due(plan.step), this.#stepDeadlineMs);
    const responses = this.#streams.map(() => null);
    this.#inFlight.set(plan.step, { plan, responses, missing: responses.length, timer });
    const request = {
      fence: this.#fence,
      step: plan.step,
      sequences: plan.sequences,
      kvMoves: [...plan.moves],
      collectiveDeadlineMs: Math.round(this.#stepDeadlineMs * collectiveDeadlineShare),
    };
    for (const stream of this.#streams) stream.send(request);
  }

  /**
   * Nothing that still comes counts. The streams stay open: a worker that sees one end right after its last answer takes that for a
   * crash and gives up the epoch's KV, which the next epoch may want.
   */
  retire(): void {
    this.#over = true;
    clearTimeout(this.#echoTimer);
    for (const { timer } of this.#inFlight.values()) clearTimeout(timer);
    this.#inFlight.clear();
  }

  /** Idempotent; the listener hears nothing more. */
  close(): void {
    this.retire();
    for (const stream of this.#streams.splice(0)) stream.close();
  }

  #fail(error: HelsError, requestId: string | null = null): void {
    if (this.#over) return;
    this.close();
    this.#listener.failed(error, requestId);
  }

  /** The end of the epoch: at once with a cause, after a while with none. */
  #reported(rank: number, step: number, error: StepError__Output): void {
    const failure = this.#failureOf(rank, step, error);
    if (!echoCodes.has(error.code)) {
      this.#fail(failure, this.#requestOf(step, error));
      return;
    }
    this.#echoes.set(rank, failure);
    const [first = failure] = this.#echoes.values();
    if (this.#echoes.size === this.#streams.length) this.#fail(first);
    else {
      const cause = () => this.#fail(this.#refusal() ?? first);
      this.#echoTimer ??= setTimeout(cause, rootCauseWaitMs);
    }
  }

  /** Of a rank that refused a step which others have begun. */
  #refusal(): HelsError | null {
    for (const { plan, responses } of this.#inFlight.values()) {
      for (const [rank, response] of responses.entries()) {
        if (response?.error) return this.#failureOf(rank, plan.step, response.error);
      }
    }
    return null;
  }

  #failureOf(rank: number, step: number, { code, message }: StepError__Output): HelsError {
    const known = isErrorCode(code) ? code : 'worker-lost';
    return new HelsError(known, `${this.#nameOf(rank)}, step ${step}: ${message}`);
  }

  #nameOf(rank: number): string {
    return `worker '${this.#streams[rank]?.workerId ?? rank}'`;
  }

  #requestOf(step: number, { slot }: StepError__Output): string | null {
    if (slot === undefined) return null;
    const { sequences = [] } = this.#inFlight.get(step)?.plan ?? {};
    return sequences.find((sequence) => sequence.slot === slot)?.requestId ?? null;
  }

  #due(step: number): void {
    const flight = this.#inFlight.get(step);
    if (flight !== undefined) flight.timer = setTimeout(() => this.#late(step), unreadAnswersMs);
  }

  #late(step: number): void {
    const responses = this.#inFlight.get(step)?.responses ?? [];
    const silent = this.#streams
      .filter((_, rank) => responses[rank] === null)
      .map(({ workerId }) => `'${workerId}'`);
    const message = `step ${step} was not answered within ${this.#stepDeadlineMs} ms by ${silent.join(', ')}`;
    this.#fail(new HelsError('worker-lost', message));
  }

  #receive(rank: number, response: StepResponse__Output): void {
    if (this.#over || this.#echoes.has(rank)) return;
    const { step, error } = response;
    if (error !== null && (error.code !== refusedCode || this.#requestOf(step, error) === null)) {
      this.#reported(rank, step, error);
      return;
    }
    const flight = this.#inFlight.get(response.step);
    if (flight === undefined || flight.responses[rank] !== null) {
      const message = `${this.#nameOf(rank)} answered step ${response.step}, which it was not asked`;
      this.#fail(new HelsError('internal', message));
      return;
    }
    flight.responses[rank] = response;
    flight.missing -= 1;
    if (flight.missing === 0) this.#complete(flight);
  }

  #complete({ plan, responses: byRank }: InFlight): void {
    const responses = byRank.filter((response) => response !== null);
    if (responses.some(({ error }) => error !== null)) {
      this.#refused(plan, responses);
      return;
    }
    this.#take(plan);
    const [first, ...others] = responses;
    if (first === undefined || others.some((other) => !sameTokens(first, other))) {
      this.#fail(
        new HelsError('internal', `the ranks disagree on the tokens of step ${plan.step}`),
      );
      return;
    }
    this.#listener.answered(plan, responses);
  }

  /** By all ranks for one sequence: nothing has happened. Otherwise some have done the step, or none can ever do what comes of it. */
  #refused(plan: StepPlan, responses: readonly StepResponse__Output[]): void {
    const { step } = plan;
    const errors = responses.map(({ error }) => error);
    const [requestId, ...others] = errors.map((error) => error && this.#requestOf(step, error));
    const rank = errors.findIndex((error) => error !== null);
    const error = errors[rank] as StepError__Output;
    if (requestId == null || others.some((other) => other !== requestId)) {
      this.#fail(this.#failureOf(rank, step, error));
      return;
    }
    this.#take(plan);
    const message = `the ranks refuse the request: ${error.message}`;
    this.#listener.refused(plan, requestId, new HelsError('internal', message));
  }

  #take({ step }: StepPlan): void {
    clearTimeout(this.#inFlight.get(step)?.timer);
    this.#inFlight.delete(step);
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
