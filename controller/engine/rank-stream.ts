/** One rank's long-lived step stream: the port that the step loop speaks, and its gRPC edge. */
import type * as grpc from '@grpc/grpc-js';
import { type ErrorCode, HelsError } from '../../proto/domain/errors.ts';
import type { StepRequest } from '../../proto/gen/hels/v1/StepRequest.ts';
import type { StepResponse__Output } from '../../proto/gen/hels/v1/StepResponse.ts';
import type { WorkerClient } from '../../proto/gen/hels/v1/Worker.ts';
import { connectionFailureOf } from '../../proto/rpc/connection-failure.ts';
import { fromServiceError } from '../../proto/rpc/status.ts';

export interface RankListener {
  response(response: StepResponse__Output): void;
  /** At most once; nothing comes after it. */
  ended(error: HelsError): void;
}

/** At most `stepsInFlightMax` small messages are under way, so writes are never waited for. */
export interface RankStream {
  readonly workerId: string;
  send(request: StepRequest): void;
  close(): void;
}

export type OpenRankStream = (listener: RankListener) => RankStream;

/** How gRPC tells of a stream that broke. */
const lostCodes: ReadonlySet<ErrorCode> = new Set(['unreachable', 'internal', 'cancelled']);

/** The worker answered before: a connection that breaks now is no question of addresses or certificates. */
function failureOf(workerId: string, error: Error): HelsError {
  const failure = fromServiceError(error, `worker '${workerId}'`);
  if (!lostCodes.has(failure.code)) return failure;
  const { details = error.message } = error as Partial<grpc.ServiceError>;
  const { reason } = connectionFailureOf(details);
  const message =
    failure.code === 'unreachable'
      ? `the step stream of worker '${workerId}' broke: ${reason}`
      : failure.message;
  return new HelsError('worker-lost', message, { cause: error });
}

export function grpcRankStream(workerId: string, stub: WorkerClient): OpenRankStream {
  return (listener) => {
    const call: grpc.ClientDuplexStream<StepRequest, StepResponse__Output> = stub.steps();
    let over = false;
    const end = (error: HelsError) => {
      if (over) return;
      over = true;
      listener.ended(error);
    };
    call.on('data', (response: StepResponse__Output) => {
      if (!over) listener.response(response);
    });
    call.on('error', (error) => end(failureOf(workerId, error)));
    call.on('end', () => {
      end(new HelsError('worker-lost', `worker '${workerId}' closed its step stream`));
    });
    return {
      workerId,
      send: (request) => {
        if (!over) call.write(request);
      },
      close: () => {
        over = true;
        // Ending lets the worker finish what it has; cancelling alone would look like a crash to it.
        call.end();
        call.cancel();
      },
    };
  };
}
