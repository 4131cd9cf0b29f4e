import * as grpc from '@grpc/grpc-js';
import { HelsError } from '../../proto/domain/errors.ts';
import type { Peer } from '../../proto/rpc/peers.ts';
import { fromServiceError } from '../../proto/rpc/status.ts';

/** A host that is off refuses nothing, and the system gives up on it after minutes only. */
const connectDeadlineMs = 5_000;
const unconnected: ReadonlySet<grpc.connectivityState> = new Set([
  grpc.connectivityState.CONNECTING,
  grpc.connectivityState.TRANSIENT_FAILURE,
]);

/**
 * A server stream as an async iterable: messages in order, then the end or one HelsError. Aborting the signal, or leaving the loop
 * early, cancels the call. gRPC's own flow control bounds what is read ahead.
 */
export async function* iterate<T>(
  call: grpc.ClientReadableStream<T>,
  peer: Peer<grpc.Client>,
  signal: AbortSignal | undefined,
): AsyncGenerator<T, void, undefined> {
  const cancel = () => call.cancel();
  const timer = cancelUnconnected(call, peer);
  signal?.addEventListener('abort', cancel, { once: true });
  if (signal?.aborted) cancel();
  try {
    for await (const message of call) yield message as T;
  } catch (error) {
    throw failureOf(error, peer, signal);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', cancel);
    // A cancelled call reports CANCELLED as an error event after the iteration has left.
    call.on('error', () => {});
    call.cancel();
  }
}

/** Clear the timer when the call has ended. */
export function cancelUnconnected(
  call: grpc.ClientUnaryCall | grpc.ClientReadableStream<unknown>,
  { stub }: Peer<grpc.Client>,
): NodeJS.Timeout {
  const timer = setTimeout(() => {
    const state = stub.getChannel().getConnectivityState(false);
    // Idle is what a controller leaves that is stopping: the call may still be answered.
    if (unconnected.has(state)) call.cancel();
  }, connectDeadlineMs);
  call.once('metadata', () => clearTimeout(timer));
  return timer;
}

/** Whoever cancelled the call, when it was not the caller, was the connection or its other end. */
export function failureOf(
  error: unknown,
  { address }: Peer<unknown>,
  signal: AbortSignal | undefined,
): HelsError {
  if (signal?.aborted) return cancelled(address);
  const failure = fromServiceError(error, address);
  if (failure.code !== 'cancelled') return failure;
  return new HelsError('unreachable', `${address} cut the call, or could not be connected to`);
}

export function cancelled(address: string): HelsError {
  return new HelsError('cancelled', `the call to ${address} was cancelled`);
}
