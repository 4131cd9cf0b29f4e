/** Turns plain async functions into gRPC handlers: errors become statuses, a client's cancel becomes an AbortSignal. */
import type * as grpc from '@grpc/grpc-js';
import { HelsError } from '../../../proto/domain/errors.ts';
import { toServiceError } from '../../../proto/rpc/status.ts';
import { limits } from '../../limits.ts';
import { readerStalled } from '../request-deadline.ts';

export function unaryHandler<Request, Response>(
  handle: (request: Request) => Response | Promise<Response>,
): grpc.handleUnaryCall<Request, Response> {
  return (call, done) => {
    Promise.resolve()
      .then(() => handle(call.request))
      .then(
        (response) => done(null, response),
        (error: unknown) => done(toServiceError(error)),
      );
  };
}

/** Resolves when the stream can take more; a client that went away ends the wait, one that reads nothing ends it with deadline-exceeded. */
function drained(call: grpc.ServerWritableStream<unknown, unknown>, signal: AbortSignal) {
  return new Promise<void>((resolve, reject) => {
    const settle = (end: () => void) => {
      clearTimeout(timer);
      call.off('drain', finish);
      signal.removeEventListener('abort', finish);
      end();
    };
    const finish = () => settle(resolve);
    const timer = setTimeout(
      () => settle(() => reject(readerStalled())),
      limits.writeStallTimeoutMs,
    );
    call.once('drain', finish);
    signal.addEventListener('abort', finish, { once: true });
    if (signal.aborted) finish();
  });
}

export function streamHandler<Request, Response>(
  handle: (request: Request, signal: AbortSignal) => AsyncIterable<Response>,
): grpc.handleServerStreamingCall<Request, Response> {
  return (call) => {
    const abort = new AbortController();
    call.on('cancelled', () => abort.abort(new HelsError('cancelled', 'the client went away')));
    const run = async () => {
      // A throw before the first message must become a status too.
      for await (const message of handle(call.request, abort.signal)) {
        if (abort.signal.aborted) return;
        if (!call.write(message)) await drained(call, abort.signal);
      }
      call.end();
    };
    run().catch((error: unknown) => {
      if (!abort.signal.aborted) call.emit('error', toServiceError(error));
    });
  };
}
