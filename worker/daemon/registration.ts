/**
 * Tells the controller that leads that this worker exists and progresses. When it does not answer, the next of the list is asked; all may
 * be away for any time: this never gives up.
 */
import type * as grpc from '@grpc/grpc-js';
import { sleep } from '../../proto/base/clock.ts';
import type { Logger } from '../../proto/base/log.ts';
import { toHelsError } from '../../proto/domain/errors.ts';
import type { HeartbeatRequest } from '../../proto/gen/hels/v1/HeartbeatRequest.ts';
import type { HeartbeatResponse__Output } from '../../proto/gen/hels/v1/HeartbeatResponse.ts';
import type { RegisterRequest } from '../../proto/gen/hels/v1/RegisterRequest.ts';
import type { RegisterResponse__Output } from '../../proto/gen/hels/v1/RegisterResponse.ts';
import { RegistryService } from '../../proto/rpc/definitions.ts';
import { Peers } from '../../proto/rpc/peers.ts';
import { fromServiceError } from '../../proto/rpc/status.ts';

type RegistryStub = InstanceType<typeof RegistryService>;

export interface RegistrationOptions {
  controllers: readonly string[];
  credentials: grpc.ChannelCredentials;
  log: Logger;
  registerRequest(): RegisterRequest;
  heartbeatRequest(): HeartbeatRequest;
  /** In [0, 1): spreads the attempts of many workers. */
  random(): number;
}

const callDeadlineMs = 3_000;
/** What a controller may ask for; a nonsense value must neither flood it nor let the worker seem lost. */
const heartbeatBoundsMs = { low: 50, high: 60_000 };

export class Registration {
  readonly #options: RegistrationOptions;
  readonly #peers: Peers<RegistryStub>;
  readonly #stopping = new AbortController();
  #loop: Promise<void> = Promise.resolve();
  /** By whom the last call was answered. */
  #answered: unknown = null;
  /** Of this outage. */
  readonly #logged = new Set<string>();

  constructor(options: RegistrationOptions) {
    this.#options = options;
    this.#peers = new Peers(RegistryService, options.controllers, options.credentials);
  }

  start(): void {
    this.#loop = this.#run();
  }

  /** Says goodbye (once, within the call deadline) and stops the heartbeats. */
  async stop(reason: string): Promise<void> {
    this.#stopping.abort();
    await this.#loop;
    const { workerId, incarnation } = this.#options.registerRequest();
    try {
      await this.#call((stub, options, done) =>
        stub.deregister(
          { workerId: workerId ?? '', incarnation: incarnation ?? '', reason },
          options,
          done,
        ),
      );
    } catch (error) {
      this.#options.log.warn('could not say goodbye to the controller', { error: String(error) });
    }
    this.#peers.close();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    let failures = 0;
    let intervalMs: number | null = null;
    while (!signal.aborted) {
      try {
        intervalMs =
          intervalMs === null ? await this.#register() : await this.#heartbeat(intervalMs);
        failures = 0;
        await sleep(intervalMs ?? 0, signal);
      } catch (error) {
        if (!signal.aborted) this.#logOutage(error);
        failures += 1;
        await sleep(this.#peers.pauseMs(failures, this.#options.random()), signal);
      }
    }
  }

  /** Resolves to the interval of heartbeats. */
  async #register(): Promise<number> {
    const { log, registerRequest } = this.#options;
    const controller = this.#peers.current.address;
    const response = await this.#call<RegisterResponse__Output>((stub, options, done) =>
      stub.register(registerRequest(), options, done),
    );
    this.#logged.clear();
    log.info('registered', { controller, term: response.term });
    const { low, high } = heartbeatBoundsMs;
    return Math.min(Math.max(response.heartbeatIntervalMs, low), high);
  }

  /** Resolves to the interval again, or to null when the worker has to register anew. */
  async #heartbeat(intervalMs: number): Promise<number | null> {
    const { known } = await this.#call<HeartbeatResponse__Output>((stub, options, done) =>
      stub.heartbeat(this.#options.heartbeatRequest(), options, done),
    );
    this.#logged.clear();
    if (known) return intervalMs;
    this.#options.log.info('the controller does not know this worker; registering again');
    return null;
  }

  #call<Response>(
    invoke: (
      stub: RegistryStub,
      options: grpc.CallOptions,
      done: (error: grpc.ServiceError | null, response?: Response) => void,
    ) => void,
  ): Promise<Response> {
    const peer = this.#peers.current;
    return new Promise((resolve, reject) => {
      invoke(peer.stub, { deadline: Date.now() + callDeadlineMs }, (error, response) => {
        if (error || response === undefined) {
          // One that answered a moment ago leads, and is asked once more: the way round the list may be longer than the lease.
          if (this.#answered === peer) this.#answered = null;
          else this.#peers.passOver(peer);
          reject(fromServiceError(error, peer.address));
        } else {
          this.#answered = peer;
          resolve(response);
        }
      });
    });
  }

  /** Once per outage, not once per attempt; a refusal in its own right, for others of the list may not answer. */
  #logOutage(error: unknown): void {
    const { code, field } = toHelsError(error);
    const isRefused = code === 'denied' && field === 'worker_id';
    const what = isRefused
      ? 'the controller refuses this worker'
      : 'the controller does not answer';
    if (this.#logged.has(what)) return;
    this.#logged.add(what);
    this.#options.log.warn(`${what}; trying on`, { error: String(error) });
  }
}
