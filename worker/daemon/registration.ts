/** Tells the controller that this worker exists and progresses. The controller may be away for any time: this never gives up. */
import type * as grpc from '@grpc/grpc-js';
import { sleep } from '../../proto/base/clock.ts';
import type { Logger } from '../../proto/base/log.ts';
import type { HeartbeatRequest } from '../../proto/gen/hels/v1/HeartbeatRequest.ts';
import type { HeartbeatResponse__Output } from '../../proto/gen/hels/v1/HeartbeatResponse.ts';
import type { RegisterRequest } from '../../proto/gen/hels/v1/RegisterRequest.ts';
import type { RegisterResponse__Output } from '../../proto/gen/hels/v1/RegisterResponse.ts';
import { channelOptions, RegistryService } from '../../proto/rpc/definitions.ts';
import { fromServiceError } from '../../proto/rpc/status.ts';

export interface RegistrationOptions {
  controller: string;
  credentials: grpc.ChannelCredentials;
  log: Logger;
  registerRequest(): RegisterRequest;
  heartbeatRequest(): HeartbeatRequest;
  /** In [0, 1): spreads the attempts of many workers. */
  random(): number;
}

const callDeadlineMs = 3_000;
const backoffMs = { first: 200, max: 5_000 };
/** What a controller may ask for; a nonsense value must neither flood it nor let the worker seem lost. */
const heartbeatBoundsMs = { low: 50, high: 60_000 };

/** Doubles with each attempt up to a bound; half of it is chance. `chance` in [0, 1). Pure. */
export function backoffDelayMs(attempt: number, chance: number): number {
  const full = Math.min(backoffMs.max, backoffMs.first * 2 ** Math.min(attempt, 30));
  return full * (0.5 + 0.5 * chance);
}

export class Registration {
  readonly #options: RegistrationOptions;
  readonly #stub: InstanceType<typeof RegistryService>;
  readonly #stopping = new AbortController();
  #loop: Promise<void> = Promise.resolve();
  #outageLogged = false;

  constructor(options: RegistrationOptions) {
    this.#options = options;
    this.#stub = new RegistryService(options.controller, options.credentials, {
      ...channelOptions,
      'grpc.initial_reconnect_backoff_ms': backoffMs.first,
      'grpc.max_reconnect_backoff_ms': backoffMs.max,
    });
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
      await this.#call((options, done) =>
        this.#stub.deregister(
          { workerId: workerId ?? '', incarnation: incarnation ?? '', reason },
          options,
          done,
        ),
      );
    } catch (error) {
      this.#options.log.warn('could not say goodbye to the controller', { error: String(error) });
    }
    this.#stub.close();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    let attempt = 0;
    let intervalMs: number | null = null;
    while (!signal.aborted) {
      try {
        intervalMs =
          intervalMs === null ? await this.#register() : await this.#heartbeat(intervalMs);
        attempt = 0;
        await sleep(intervalMs ?? 0, signal);
      } catch (error) {
        if (!signal.aborted) this.#logOutage(error);
        await sleep(backoffDelayMs(attempt, this.#options.random()), signal);
        attempt += 1;
      }
    }
  }

  /** Resolves to the interval of heartbeats. */
  async #register(): Promise<number> {
    const { log, controller, registerRequest } = this.#options;
    const response = await this.#call<RegisterResponse__Output>((options, done) =>
      this.#stub.register(registerRequest(), options, done),
    );
    this.#outageLogged = false;
    log.info('registered', { controller, term: response.term });
    const { low, high } = heartbeatBoundsMs;
    return Math.min(Math.max(response.heartbeatIntervalMs, low), high);
  }

  /** Resolves to the interval again, or to null when the worker has to register anew. */
  async #heartbeat(intervalMs: number): Promise<number | null> {
    const { known } = await this.#call<HeartbeatResponse__Output>((options, done) =>
      this.#stub.heartbeat(this.#options.heartbeatRequest(), options, done),
    );
    this.#outageLogged = false;
    if (known) return intervalMs;
    this.#options.log.info('the controller does not know this worker; registering again');
    return null;
  }

  #call<Response>(
    invoke: (
      options: grpc.CallOptions,
      done: (error: grpc.ServiceError | null, response?: Response) => void,
    ) => void,
  ): Promise<Response> {
    return new Promise((resolve, reject) => {
      invoke({ deadline: Date.now() + callDeadlineMs }, (error, response) => {
        if (error || response === undefined) {
          reject(fromServiceError(error, this.#options.controller));
        } else resolve(response);
      });
    });
  }

  /** Once per outage, not once per attempt. */
  #logOutage(error: unknown): void {
    if (this.#outageLogged) return;
    this.#outageLogged = true;
    this.#options.log.warn('the controller does not answer; trying on', { error: String(error) });
  }
}
