/** One rank's long-lived step stream: the port that the step loop speaks, and its gRPC edge. */
import type * as grpc from '@grpc/grpc-js';
import { type ErrorCode, HelsError } from '../../proto/domain/errors.ts';
import type { StepRequest } from '../../proto/gen/hels/v1/StepRequest.ts';
import type { StepResponse__Output } from '../../proto/gen/hels/v1/StepResponse.ts';
import type { WorkerClient } from '../../proto/gen/hels/v1/Worker.ts';
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
    call.on('error', (error) => {
      const failure = fromServiceError(error, `worker '${workerId}'`);
      end(
        lostCodes.has(failure.code)
          ? new HelsError('worker-lost', failure.message, { cause: error })
          : failure,
      );
    });
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
