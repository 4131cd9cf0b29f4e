import * as grpc from '@grpc/grpc-js';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { HelsHandlers } from '../../../proto/gen/hels/v1/Hels.ts';
import type { RegistryHandlers } from '../../../proto/gen/hels/v1/Registry.ts';
import { channelOptions, HelsService, RegistryService } from '../../../proto/rpc/definitions.ts';
import { limits } from '../../limits.ts';
import { boundedRequests } from './bounded-requests.ts';

/** The controller's gRPC port: the client API and the worker registry. */
export class GrpcServer {
  readonly #server: grpc.Server;

  constructor(api: HelsHandlers, registry: RegistryHandlers) {
    this.#server = new grpc.Server({
      ...channelOptions,
      'grpc.max_receive_message_length': limits.grpcMessageBytesMax,
    });
    this.#server.addService(
      boundedRequests(HelsService.service),
      api as unknown as grpc.UntypedServiceImplementation,
    );
    this.#server.addService(
      boundedRequests(RegistryService.service),
      registry as unknown as grpc.UntypedServiceImplementation,
    );
  }

  /** Resolves to the port bound; throws config-invalid when the address cannot be. */
  listen(address: string, credentials: grpc.ServerCredentials): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#server.bindAsync(address, credentials, (error, port) => {
        if (error === null) resolve(port);
        else {
          const message = `--grpc ${address}: cannot listen there: ${error.message}; choose another address or port`;
          reject(new HelsError('config-invalid', message, { field: '--grpc' }));
        }
      });
    });
  }

  /** Lets running calls end; those still running at the deadline are cut. */
  async close(deadlineMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, deadlineMs);
    });
    await Promise.race([
      new Promise<void>((resolve) => this.#server.tryShutdown(() => resolve())),
      late,
    ]);
    clearTimeout(timer);
    this.#server.forceShutdown();
  }
}
