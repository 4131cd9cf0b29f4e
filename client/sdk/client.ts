import { type ErrorCode, HelsError, toHelsError } from '../../proto/domain/errors.ts';
import { parseAddresses } from '../../proto/domain/host-port.ts';
import type { DeployRequest } from '../../proto/gen/hels/v1/DeployRequest.ts';
import type { HelsClient as HelsStub } from '../../proto/gen/hels/v1/Hels.ts';
import { channelCredentials } from '../../proto/rpc/credentials.ts';
import { HelsService } from '../../proto/rpc/definitions.ts';
import { Peers } from '../../proto/rpc/peers.ts';
import { Attempts, type InvokeUnary, type OpenStream } from './attempts.ts';
import { generateOver } from './generation.ts';
import { checkDeployOptions, checkReplanOptions } from './request-checks.ts';
import type {
  CallOptions,
  DeployEvent,
  DeployOptions,
  DrainEvent,
  GenerateEvent,
  GenerateInput,
  GenerateOptions,
  PlanReport,
  ProfileEvent,
  ProfileOptions,
  ReplanEvent,
  ReplanOptions,
  Status,
} from './types.ts';

const unaryDeadlineMs = 10_000;

export interface HelsClientOptions {
  /** host:port of the controller's gRPC port; of several controllers with commas, in the order in which they are tried. */
  address: string;
  /** TLS, in PEM: the authority's certificate and one's own pair, which a controller asks for. Absent: plain text. */
  tls?: { authority: Buffer; certificate?: Buffer; key?: Buffer };
}

/** `once`: done twice it gives another answer than done once. So it goes to a controller that has just answered, and only one is asked. */
interface Asking {
  once?: boolean;
}

const unanswered: ReadonlySet<ErrorCode> = new Set(['unreachable', 'deadline-exceeded']);

/** Of what a controller was asked for and has not answered. */
function unsure(error: unknown): HelsError {
  const failure = toHelsError(error);
  if (!unanswered.has(failure.code)) return failure;
  const message = `${failure.message}; what was asked for may be done or not: look with helsctl status before asking again`;
  return new HelsError(failure.code, message, { cause: failure });
}

/**
 * A client of the controller that leads. Every method throws HelsError. Streams are async iterables: leaving the loop cancels the work on
 * the server.
 */
export class HelsClient {
  readonly #peers: Peers<HelsStub>;

  constructor(options: HelsClientOptions) {
    const addresses = parseAddresses(options.address, 'address');
    this.#peers = new Peers(HelsService, addresses, channelCredentials(options.tls ?? null));
  }

  /**
   * Streams an answer: one `started`, then `delta`s, then one `finished`; or throws. When the stream breaks in between, the controller
   * that leads next gives the rest in the same events (`resumeForMs`); the times of `finished` are then those of the last part.
   */
  generate(
    input: GenerateInput,
    options: GenerateOptions = {},
    call: CallOptions = {},
  ): AsyncGenerator<GenerateEvent, void, undefined> {
    return generateOver(this.#peers, input, options, call);
  }

  /** Brings a model up; progress events, then one `ready`; throws what went wrong. */
  async *deploy(
    options: DeployOptions,
    call: CallOptions = {},
  ): AsyncGenerator<DeployEvent, void, undefined> {
    checkDeployOptions(options);
    const request: DeployRequest = {
      ...options,
      workload: options.workload ?? null,
      ranks: options.ranks ?? [],
      noPrefixCache: options.prefixCache === false,
      noAutoReplan: options.autoReplan === false,
    };
    const messages = this.#stream((stub, deadline) => stub.deploy(request, deadline), call);
    for await (const message of messages) {
      if (message.progress) yield { type: 'progress', ...message.progress };
      else if (message.ready) yield { type: 'ready', report: message.ready };
    }
  }

  /**
   * Plans anew for the model being served and moves its requests to that plan: one `proposal`, progress events, one `done`. Throws what
   * went wrong; the requests then go on under the former plan. The re-plan goes on when the caller leaves.
   */
  async *replan(
    options: ReplanOptions = {},
    call: CallOptions = {},
  ): AsyncGenerator<ReplanEvent, void, undefined> {
    checkReplanOptions(options);
    const { policy = '', workload = null, ranks = [] } = options;
    const messages = this.#stream(
      (stub, deadline) => stub.replan({ policy, workload, ranks }, deadline),
      call,
      { once: true },
    );
    for await (const message of messages) {
      if (message.proposal) yield { type: 'proposal', ...message.proposal };
      else if (message.progress) yield { type: 'progress', ...message.progress };
      else if (message.done?.report) {
        yield { type: 'done', replan: message.done.replan, report: message.done.report };
      }
    }
  }

  /**
   * Takes a worker out of service: what it serves moves to the others as in a re-plan, and no later plan uses it, whatever becomes of it.
   * Ends with one `done`; its `report` is null when nothing had to move. Throws what keeps the others from taking over.
   */
  drain(workerId: string, call: CallOptions = {}): AsyncGenerator<DrainEvent, void, undefined> {
    return this.#drain(workerId, false, call);
  }

  /** The way back from `drain`: plans may use the worker again. */
  async undrain(workerId: string, call: CallOptions = {}): Promise<void> {
    for await (const _ of this.#drain(workerId, true, call));
  }

  /** The workers' latency lines, measured where they are not stored; progress events, then one `ready`. */
  async *profile(
    options: ProfileOptions = {},
    call: CallOptions = {},
  ): AsyncGenerator<ProfileEvent, void, undefined> {
    const messages = this.#stream((stub, deadline) => stub.profileWorkers(options, deadline), call);
    for await (const message of messages) {
      if (message.progress) yield { type: 'progress', ...message.progress };
      else if (message.ready) yield { type: 'ready', report: message.ready };
    }
  }

  /** Stops serving the model and frees the workers. */
  async undeploy(modelId: string, call: CallOptions = {}): Promise<void> {
    await this.#unary<object>(
      (stub, options, done) => stub.undeploy({ modelId }, options, done),
      call,
      { once: true },
    );
  }

  status(call: CallOptions = {}): Promise<Status> {
    return this.#unary<Status>((stub, options, done) => stub.getStatus({}, options, done), call);
  }

  /** The plan being served, with predictions beside measurements; throws not-ready without one. */
  plan(call: CallOptions = {}): Promise<PlanReport> {
    return this.#unary<PlanReport>((stub, options, done) => stub.getPlan({}, options, done), call);
  }

  /** Refuses calls from now on. Streams that run go on to their end, and hold their connection. */
  close(): void {
    this.#peers.close();
  }

  async *#drain(
    workerId: string,
    undo: boolean,
    call: CallOptions,
  ): AsyncGenerator<DrainEvent, void, undefined> {
    const messages = this.#stream(
      (stub, deadline) => stub.drain({ workerId, undo }, deadline),
      call,
    );
    for await (const message of messages) {
      if (message.proposal) yield { type: 'proposal', ...message.proposal };
      else if (message.progress) yield { type: 'progress', ...message.progress };
      else if (message.done) yield { type: 'done', ...message.done };
    }
  }

  /** Another controller may answer what nobody has answered yet; what has begun and breaks is the caller's to ask for again. */
  async *#stream<T>(
    open: OpenStream<T>,
    call: CallOptions,
    { once = false }: Asking = {},
  ): AsyncGenerator<T, void, undefined> {
    const attempts = new Attempts(this.#peers, call, Infinity);
    for (;;) {
      if (once) await attempts.reach();
      let answered = false;
      try {
        for await (const message of attempts.stream(open)) {
          answered = true;
          yield message;
        }
        return;
      } catch (error) {
        const failure = once ? unsure(error) : error;
        if (answered) throw failure;
        await attempts.again(failure, once ? attempts.refusal : attempts.takeover);
      }
    }
  }

  async #unary<T>(
    invoke: InvokeUnary<T>,
    call: CallOptions,
    { once = false }: Asking = {},
  ): Promise<T> {
    const attempts = new Attempts(this.#peers, call, unaryDeadlineMs);
    for (;;) {
      if (once) await attempts.reach();
      try {
        return await attempts.unary(invoke);
      } catch (error) {
        const failure = once ? unsure(error) : error;
        await attempts.again(failure, once ? attempts.refusal : attempts.takeover);
      }
    }
  }
}
