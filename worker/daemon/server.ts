/** The worker's gRPC port. */
import * as grpc from '@grpc/grpc-js';
import { sleep } from '../../proto/base/clock.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import { type HostPort, showHostPort } from '../../proto/domain/host-port.ts';
import type { WorkerHandlers } from '../../proto/gen/hels/v1/Worker.ts';
import { channelOptions, WorkerService } from '../../proto/rpc/definitions.ts';

/** A controller that stands still for a moment is not gone, and its epoch goes on; another one would come with a newer fence. */
const serverOptions = { ...channelOptions, 'grpc.keepalive_timeout_ms': 60_000 };

export class WorkerServer {
  readonly #server: grpc.Server;

  readonly #credentials: grpc.ServerCredentials;

  constructor(handlers: WorkerHandlers, credentials: grpc.ServerCredentials) {
    this.#credentials = credentials;
    this.#server = new grpc.Server(serverOptions);
    this.#server.addService(WorkerService.service, handlers);
  }

  /** Resolves to the port bound; throws config-invalid when the address cannot be. */
  listen(address: HostPort): Promise<number> {
    return new Promise((resolve, reject) => {
      const text = showHostPort(address);
      this.#server.bindAsync(text, this.#credentials, (error, port) => {
        if (error === null) return resolve(port);
        const message = `--listen ${text}: cannot listen there: ${error.message}; choose another address or port`;
        reject(new HelsError('config-invalid', message, { field: '--listen' }));
      });
    });
  }

  /** Lets running calls end; those still running at the deadline are cut. */
  async close(deadlineMs: number): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.tryShutdown(() => resolve()));
    await Promise.race([closed, sleep(deadlineMs)]);
    this.#server.forceShutdown();
  }
}
