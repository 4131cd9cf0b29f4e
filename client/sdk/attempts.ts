/** The attempts of one call until a controller of the list answers. */
import { setMaxListeners } from 'node:events';
import type * as grpc from '@grpc/grpc-js';
import { backoffDelayMs } from '../../proto/base/backoff.ts';
import { sleep } from '../../proto/base/clock.ts';
import { type ErrorCode, HelsError, toHelsError } from '../../proto/domain/errors.ts';
import type { HelsClient as HelsStub } from '../../proto/gen/hels/v1/Hels.ts';
import type { Peer, Peers } from '../../proto/rpc/peers.ts';
import { checkNumber } from './checks.ts';
import {
  cancelled,
  cancelUnconnected,
  failureOf,
  isUnconnected,
  iterate,
} from './server-stream.ts';
import type { CallOptions } from './types.ts';

export type OpenStream<T> = (
  stub: HelsStub,
  options: grpc.CallOptions,
) => grpc.ClientReadableStream<T>;

export type InvokeUnary<T> = (
  stub: HelsStub,
  options: grpc.CallOptions,
  done: (error: grpc.ServiceError | null, value?: T) => void,
) => grpc.ClientUnaryCall;

/** After which failures a call is made again, and for how long from the first of them. */
export interface Patience {
  codes: ReadonlySet<ErrorCode>;
  forMs: number;
}

/** Of these another controller may know nothing. */
const passingCodes: ReadonlySet<ErrorCode> = new Set(['unreachable', 'draining']);
/** For one address, and where there are others to ask. */
const connectDeadlineMs = { alone: 5_000, ofSeveral: 1_500 } as const;
/** The longest timer that either end can set, almost 25 days, in the whole seconds that the wire has for so long a time. */
const deadlineMsMax = 2_147_483_000;
/** With several addresses, none that answers is what a takeover looks like from here. */
const takeoverMs = 10_000;

export class Attempts {
  readonly #peers: Peers<HelsStub>;
  readonly #signal: AbortSignal | undefined;
  /** Infinity: no deadline. */
  readonly #untilMs: number;
  #failures = 0;
  #firstFailureMs = 0;

  constructor(peers: Peers<HelsStub>, call: CallOptions, fallbackDeadlineMs: number) {
    const { deadlineMs = fallbackDeadlineMs, signal } = call;
    checkNumber('deadlineMs', deadlineMs, [0, Infinity]);
    this.#peers = peers;
    this.#signal = signal;
    this.#untilMs = performance.now() + deadlineMs;
    // One signal may be for any number of calls, each of which takes its listener back.
    if (signal instanceof AbortSignal) setMaxListeners(0, signal);
  }

  /** For a call that nobody has answered yet. */
  get takeover(): Patience {
    const forMs = this.#peers.addresses.length > 1 ? takeoverMs : 0;
    return { codes: new Set(['unreachable', 'draining']), forMs };
  }

  /** For one that must not be done twice: whoever refuses it because of a stop has not done it. */
  get refusal(): Patience {
    return { codes: new Set(['draining']), forMs: this.takeover.forMs };
  }

  /** What failed before counts no longer. */
  progressed(): void {
    this.#failures = 0;
  }

  /** Resolves when a controller answers: it is the one that the next attempt goes to. */
  async reach(): Promise<void> {
    for (;;) {
      try {
        await this.unary<object>((stub, options, done) => stub.getStatus({}, options, done));
        return;
      } catch (error) {
        await this.again(error, this.takeover);
      }
    }
  }

  /** One attempt. */
  async *stream<T>(open: OpenStream<T>): AsyncGenerator<T, void, undefined> {
    const peer = this.#peers.current;
    try {
      yield* iterate(
        open(peer.stub, this.#deadline()),
        peer,
        this.#connectDeadlineMs,
        this.#signal,
      );
    } catch (error) {
      throw this.#told(error, peer);
    }
  }

  /** One attempt. */
  async unary<T>(invoke: InvokeUnary<T>): Promise<T> {
    const peer = this.#peers.current;
    try {
      return await this.#unary(invoke, peer);
    } catch (error) {
      throw this.#told(error, peer);
    }
  }

  /** Resolves when it is time for another attempt; throws `error` when there is none to be, or that the caller has left. */
  async again(error: unknown, { codes, forMs }: Patience): Promise<void> {
    const failure = toHelsError(error);
    if (!codes.has(failure.code) || forMs <= 0) throw failure;
    const nowMs = performance.now();
    if (this.#failures === 0) this.#firstFailureMs = nowMs;
    this.#failures += 1;
    const chance = Math.random();
    const pauseMs = passingCodes.has(failure.code)
      ? this.#peers.pauseMs(this.#failures, chance)
      : backoffDelayMs(this.#failures - 1, chance);
    const untilMs = Math.min(this.#firstFailureMs + forMs, this.#untilMs);
    if (nowMs + pauseMs >= untilMs) throw this.#gaveUp(failure, nowMs);
    const leaving = AbortSignal.any([this.#peers.closing, this.#signal ?? this.#peers.closing]);
    await sleep(pauseMs, leaving);
    if (leaving.aborted) throw cancelled(this.#peers.address);
  }

  #gaveUp({ code, message }: HelsError, nowMs: number): HelsError {
    const seconds = ((nowMs - this.#firstFailureMs) / 1000).toFixed(1);
    const tried = this.#peers.addresses.join(', ');
    return new HelsError(code, `${message}; tried ${tried} for ${seconds} s`);
  }

  #told(error: unknown, peer: Peer<HelsStub>): HelsError {
    const failure = toHelsError(error);
    // A deadline says nothing about a controller that is connected: it may be the caller's own.
    const silent = failure.code === 'deadline-exceeded' && isUnconnected(peer);
    if (passingCodes.has(failure.code) || silent) this.#peers.passOver(peer);
    return failure;
  }

  get #connectDeadlineMs(): number {
    return this.#peers.addresses.length > 1 ? connectDeadlineMs.ofSeveral : connectDeadlineMs.alone;
  }

  #deadline(): grpc.CallOptions {
    const leftMs = this.#untilMs - performance.now();
    return leftMs === Infinity ? {} : { deadline: Date.now() + Math.min(leftMs, deadlineMsMax) };
  }

  #unary<T>(invoke: InvokeUnary<T>, peer: Peer<HelsStub>): Promise<T> {
    const signal = this.#signal;
    return new Promise<T>((resolve, reject) => {
      const call = invoke(peer.stub, this.#deadline(), (error, value) => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', cancel);
        if (error !== null) reject(failureOf(error, peer, signal));
        else if (value === undefined) reject(new HelsError('internal', 'empty answer'));
        else resolve(value);
      });
      const timer = cancelUnconnected(call, peer, this.#connectDeadlineMs);
      const cancel = () => call.cancel();
      signal?.addEventListener('abort', cancel, { once: true });
      if (signal?.aborted) cancel();
    });
  }
}
