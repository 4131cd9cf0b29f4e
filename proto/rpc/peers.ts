/**
 * The controllers of a list, of which one leads and answers. gRPC.js takes lists of numeric addresses only, and holds every certificate
 * against the first of them; so each address has a channel of its own, which checks its own name.
 */
import type * as grpc from '@grpc/grpc-js';
import { backoffDelayMs } from '../base/backoff.ts';
import { HelsError } from '../domain/errors.ts';
import { channelOptions } from './definitions.ts';

export interface Peer<Stub> {
  readonly address: string;
  readonly stub: Stub;
}

type Service<Stub> = new (
  address: string,
  credentials: grpc.ChannelCredentials,
  options: grpc.ChannelOptions,
) => Stub;

/** A channel whose last attempt failed refuses calls until its next one: it must not be long. */
const reconnectOptions: grpc.ChannelOptions = {
  'grpc.initial_reconnect_backoff_ms': 200,
  'grpc.max_reconnect_backoff_ms': 1_000,
};

export class Peers<Stub extends grpc.Client> {
  readonly addresses: readonly string[];
  readonly #open: (address: string) => Stub;
  readonly #opened = new Map<string, Peer<Stub>>();
  readonly #closing = new AbortController();
  #index = 0;

  /** `addresses`: one at least. */
  constructor(
    service: Service<Stub>,
    addresses: readonly string[],
    credentials: grpc.ChannelCredentials,
  ) {
    this.addresses = addresses;
    const options = { ...channelOptions, ...reconnectOptions };
    this.#open = (address) => new service(address, credentials, options);
  }

  /** Of who is called next. */
  get address(): string {
    return this.addresses[this.#index] ?? '';
  }

  /** Who is called next. What runs with the others goes on. Throws cancelled after close(). */
  get current(): Peer<Stub> {
    const { address } = this;
    if (this.closing.aborted) {
      throw new HelsError(
        'cancelled',
        `${address} is not called: its client is closed; make a new one`,
      );
    }
    const peer = this.#opened.get(address) ?? { address, stub: this.#open(address) };
    this.#opened.set(address, peer);
    return peer;
  }

  /** The next in the list is called next: `peer` did not answer, or does not lead. Of calls that fail together only the first moves on. */
  passOver(peer: Peer<Stub>): void {
    if (peer.address === this.address) this.#index = (this.#index + 1) % this.addresses.length;
  }

  /** What to wait after so many failures in a row (from 1): nothing until each address had its turn. `chance` in [0, 1). */
  pauseMs(failures: number, chance: number): number {
    const rounds = failures / this.addresses.length;
    return Number.isInteger(rounds) ? backoffDelayMs(rounds - 1, chance) : 0;
  }

  /** Aborts with close(): nobody is to be called any more. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  /** What runs goes on to its end. */
  close(): void {
    this.#closing.abort();
    for (const { stub } of this.#opened.values()) stub.close();
  }
}
