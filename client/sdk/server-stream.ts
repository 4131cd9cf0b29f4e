import * as grpc from '@grpc/grpc-js';
import { HelsError } from '../../proto/domain/errors.ts';
import type { Peer } from '../../proto/rpc/peers.ts';
import { fromServiceError, toldCode } from '../../proto/rpc/status.ts';

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
  connectDeadlineMs: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<T, void, undefined> {
  const cancel = () => call.cancel();
  const timer = cancelUnconnected(call, peer, connectDeadlineMs);
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

/** A host that is off refuses nothing, and the system gives up on it after minutes only. Clear the timer when the call has ended. */
export function cancelUnconnected(
  call: grpc.ClientUnaryCall | grpc.ClientReadableStream<unknown>,
  peer: Peer<grpc.Client>,
  connectDeadlineMs: number,
): NodeJS.Timeout {
  const timer = setTimeout(() => {
    if (isUnconnected(peer)) call.cancel();
  }, connectDeadlineMs);
  call.once('metadata', () => clearTimeout(timer));
  return timer;
}

/** Idle is what a controller leaves that is stopping: a call may still be answered. */
export function isUnconnected({ stub }: Peer<grpc.Client>): boolean {
  return unconnected.has(stub.getChannel().getConnectivityState(false));
}

/** Whoever cancelled the call, when it was not the caller and no controller says so, was the connection or its other end. */
export function failureOf(
  error: unknown,
  { address }: Peer<unknown>,
  signal: AbortSignal | undefined,
): HelsError {
  if (signal?.aborted) return cancelled(address);
  if (isTooLarge(error)) {
    const { details } = error as grpc.ServiceError;
    const message = `the request is larger than ${address} takes: ${details}; send less text or fewer tokens`;
    return new HelsError('request-invalid', message);
  }
  const failure = fromServiceError(error, address);
  if (failure.code !== 'cancelled' || toldCode(error) !== null) return failure;
  return new HelsError('unreachable', `${address} cut the call, or could not be connected to`);
}

/** gRPC.js refuses it before the controller sees it. The numbers of bytes are in its words, the limit last. */
function isTooLarge(error: unknown): boolean {
  const { code, details } = error as Partial<grpc.ServiceError>;
  return code === grpc.status.RESOURCE_EXHAUSTED && /\blarger than\b/.test(details ?? '');
}

export function cancelled(address: string): HelsError {
  return new HelsError('cancelled', `the call to ${address} was cancelled`);
}
