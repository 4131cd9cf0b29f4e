import type * as grpc from '@grpc/grpc-js';
import { HelsError } from '../../proto/domain/errors.ts';
import { fromServiceError } from '../../proto/rpc/status.ts';

/**
 * A server stream as an async iterable: messages in order, then the end or one HelsError. Aborting the signal, or leaving the loop
 * early, cancels the call. gRPC's own flow control bounds what is read ahead.
 */
export async function* iterate<T>(
  call: grpc.ClientReadableStream<T>,
  peer: string,
  signal: AbortSignal | undefined,
): AsyncGenerator<T, void, undefined> {
  const cancel = () => call.cancel();
  signal?.addEventListener('abort', cancel, { once: true });
  if (signal?.aborted) cancel();
  try {
    for await (const message of call) yield message as T;
  } catch (error) {
    if (signal?.aborted) throw new HelsError('cancelled', `the call to ${peer} was cancelled`);
    throw fromServiceError(error, peer);
  } finally {
    signal?.removeEventListener('abort', cancel);
    // A cancelled call reports CANCELLED as an error event after the iteration has left.
    call.on('error', () => {});
    call.cancel();
  }
}
