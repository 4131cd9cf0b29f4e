import type * as grpc from '@grpc/grpc-js';
import { HelsError } from '../../proto/domain/errors.ts';
import type { DeployRequest } from '../../proto/gen/hels/v1/DeployRequest.ts';
import type { GenerateRequest } from '../../proto/gen/hels/v1/GenerateRequest.ts';
import type { HelsClient as HelsStub } from '../../proto/gen/hels/v1/Hels.ts';
import { channelCredentials } from '../../proto/rpc/credentials.ts';
import { channelOptions, HelsService } from '../../proto/rpc/definitions.ts';
import { fromServiceError } from '../../proto/rpc/status.ts';
import { iterate } from './server-stream.ts';
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
  /** host:port of the controller's gRPC port. */
  address: string;
  /** TLS, in PEM: the authority's certificate and one's own pair, which a controller asks for. Absent: plain text. */
  tls?: { authority: Buffer; certificate?: Buffer; key?: Buffer };
}

function deadlineOf(options: CallOptions, fallbackMs: number | null): grpc.CallOptions {
  const ms = options.deadlineMs ?? fallbackMs;
  return ms === null ? {} : { deadline: Date.now() + ms };
}

/**
 * A client of one controller. Every method throws HelsError; `close()` ends the connection. Streams are async iterables: leaving the
 * loop cancels the work on the server.
 */
export class HelsClient {
  readonly #stub: HelsStub;
  readonly #address: string;

  constructor(options: HelsClientOptions) {
    const credentials = channelCredentials(options.tls ?? null);
    this.#address = options.address;
    this.#stub = new HelsService(options.address, credentials, channelOptions);
  }

  /** Streams an answer: one `started`, then `delta`s, then one `finished`; or throws. */
  async *generate(
    input: GenerateInput,
    options: GenerateOptions = {},
    call: CallOptions = {},
  ): AsyncGenerator<GenerateEvent, void, undefined> {
    const stream = this.#stub.generate(generateRequest(input, options), deadlineOf(call, null));
    for await (const message of iterate(stream, this.#address, call.signal)) {
      if (message.started) yield { type: 'started', ...message.started };
      else if (message.delta) yield { type: 'delta', ...message.delta };
      else if (message.finished) yield { type: 'finished', ...message.finished };
    }
  }

  /** Brings a model up; progress events, then one `ready`; throws what went wrong. */
  async *deploy(
    options: DeployOptions,
    call: CallOptions = {},
  ): AsyncGenerator<DeployEvent, void, undefined> {
    const request: DeployRequest = {
      ...options,
      workload: options.workload ?? null,
      ranks: options.ranks ?? [],
      noPrefixCache: options.prefixCache === false,
      noAutoReplan: options.autoReplan === false,
    };
    const stream = this.#stub.deploy(request, deadlineOf(call, null));
    for await (const message of iterate(stream, this.#address, call.signal)) {
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
    const { policy = '', workload = null, ranks = [] } = options;
    const stream = this.#stub.replan({ policy, workload, ranks }, deadlineOf(call, null));
    for await (const message of iterate(stream, this.#address, call.signal)) {
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
    const stream = this.#stub.profileWorkers(options, deadlineOf(call, null));
    for await (const message of iterate(stream, this.#address, call.signal)) {
      if (message.progress) yield { type: 'progress', ...message.progress };
      else if (message.ready) yield { type: 'ready', report: message.ready };
    }
  }

  /** Stops serving the model and frees the workers. */
  async undeploy(modelId: string, call: CallOptions = {}): Promise<void> {
    await this.#unary<object>(
      (options, done) => this.#stub.undeploy({ modelId }, options, done),
      call,
    );
  }

  status(call: CallOptions = {}): Promise<Status> {
    return this.#unary<Status>((options, done) => this.#stub.getStatus({}, options, done), call);
  }

  /** The plan being served, with predictions beside measurements; throws not-ready without one. */
  plan(call: CallOptions = {}): Promise<PlanReport> {
    return this.#unary<PlanReport>((options, done) => this.#stub.getPlan({}, options, done), call);
  }

  close(): void {
    this.#stub.close();
  }

  async *#drain(
    workerId: string,
    undo: boolean,
    call: CallOptions,
  ): AsyncGenerator<DrainEvent, void, undefined> {
    const stream = this.#stub.drain({ workerId, undo }, deadlineOf(call, null));
    for await (const message of iterate(stream, this.#address, call.signal)) {
      if (message.proposal) yield { type: 'proposal', ...message.proposal };
      else if (message.progress) yield { type: 'progress', ...message.progress };
      else if (message.done) yield { type: 'done', ...message.done };
    }
  }

  #unary<T>(
    invoke: (
      options: grpc.CallOptions,
      done: (error: grpc.ServiceError | null, value?: T) => void,
    ) => grpc.ClientUnaryCall,
    options: CallOptions,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const call = invoke(deadlineOf(options, unaryDeadlineMs), (error, value) => {
        options.signal?.removeEventListener('abort', cancel);
        if (error !== null) reject(fromServiceError(error, this.#address));
        else if (value === undefined) reject(new HelsError('internal', 'empty answer'));
        else resolve(value);
      });
      const cancel = () => call.cancel();
      options.signal?.addEventListener('abort', cancel, { once: true });
      if (options.signal?.aborted) cancel();
    });
  }
}

function generateRequest(input: GenerateInput, options: GenerateOptions): GenerateRequest {
  return {
    ...('prompt' in input ? { prompt: input.prompt } : {}),
    ...('promptTokenIds' in input ? { promptTokenIds: { ids: input.promptTokenIds } } : {}),
    ...('messages' in input ? { messages: { messages: input.messages } } : {}),
    model: options.model ?? '',
    maxTokens: options.maxTokens ?? 0,
    stop: options.stop ?? [],
    seedGiven: options.seed !== undefined,
    ignoreEndOfText: options.ignoreEndOfText ?? false,
    resume: options.resume ?? null,
    cacheSalt: options.cacheSalt ?? '',
    noPrefixCache: options.prefixCache === false,
    sampling: {
      temperature: options.temperature ?? 0,
      topP: options.topP ?? 1,
      topK: options.topK ?? 0,
      seed: options.seed ?? 0,
      logprobs: options.logprobs ?? -1,
    },
  };
}
