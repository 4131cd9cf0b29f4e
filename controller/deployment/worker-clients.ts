import type { ChannelCredentials } from '@grpc/grpc-js';
import type { Clock } from '../../proto/base/clock.ts';
import { WorkerClient } from './worker-client.ts';

/** One channel for each worker's address. */
export class WorkerClients {
  readonly #credentials: ChannelCredentials;
  readonly #clock: Clock;
  readonly #clients = new Map<string, WorkerClient>();

  constructor(credentials: ChannelCredentials, clock: Clock) {
    this.#credentials = credentials;
    this.#clock = clock;
  }

  at(address: string): WorkerClient {
    const known = this.#clients.get(address);
    if (known !== undefined) return known;
    const client = new WorkerClient(address, this.#credentials, () => this.#clock.unixMs());
    this.#clients.set(address, client);
    return client;
  }

  /** A worker that comes back has another port: without this, each life of it would leave a channel behind. */
  closeAllBut(addresses: readonly string[]): void {
    const used = new Set(addresses);
    for (const [address, client] of this.#clients) {
      if (used.has(address)) continue;
      client.close();
      this.#clients.delete(address);
    }
  }
}
