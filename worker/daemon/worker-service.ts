/** The gRPC face of the worker: one handler per call of proto/hels/v1/worker.proto, each a few lines over shard.ts. */
import type * as grpc from '@grpc/grpc-js';
import type { ConnectRequest__Output } from '../../proto/gen/hels/v1/ConnectRequest.ts';
import type { ConnectResponse } from '../../proto/gen/hels/v1/ConnectResponse.ts';
import type { DescribeResponse } from '../../proto/gen/hels/v1/DescribeResponse.ts';
import type { OpenProbeRequest__Output } from '../../proto/gen/hels/v1/OpenProbeRequest.ts';
import type { OpenProbeResponse } from '../../proto/gen/hels/v1/OpenProbeResponse.ts';
import type { PrepareEvent } from '../../proto/gen/hels/v1/PrepareEvent.ts';
import type { PrepareRequest__Output } from '../../proto/gen/hels/v1/PrepareRequest.ts';
import type { ProbeCollectiveRequest__Output } from '../../proto/gen/hels/v1/ProbeCollectiveRequest.ts';
import type { ProbeCollectiveResponse } from '../../proto/gen/hels/v1/ProbeCollectiveResponse.ts';
import type { ReleaseRequest__Output } from '../../proto/gen/hels/v1/ReleaseRequest.ts';
import type { WorkerHandlers } from '../../proto/gen/hels/v1/Worker.ts';
import { toServiceError } from '../../proto/rpc/status.ts';
import type { ProbeHolder } from './collective-probe.ts';
import { type ProfilingPorts, profiler } from './profiling.ts';
import type { Shard } from './shard.ts';
import { describeState } from './shard-state.ts';
import { serveSteps } from './step-stream.ts';
import { fenceOf } from './wire.ts';

export interface WorkerIdentity {
  workerId: string;
  incarnation: string;
  version: string;
}

export interface WorkerServiceDependencies extends ProfilingPorts {
  identity: WorkerIdentity;
  shard: Shard;
  probe: ProbeHolder;
}

export function workerHandlers(dependencies: WorkerServiceDependencies): WorkerHandlers {
  const { shard, probe } = dependencies;
  const profile = profiler(dependencies);
  return {
    Describe: unary(async () => describe(dependencies)),
    Profile: (call) => streamed(call, profile),
    OpenProbe: unary<OpenProbeRequest__Output, OpenProbeResponse>(async (request) => {
      shard.refuseProfile(fenceOf(request));
      return { collectiveAddress: await probe.open(request) };
    }),
    ProbeCollective: unary<ProbeCollectiveRequest__Output, ProbeCollectiveResponse>(
      async (request) => {
        shard.refuseProfile(fenceOf(request));
        return { seconds: await probe.measure(request) };
      },
    ),
    Prepare: (call) =>
      streamed<PrepareRequest__Output, PrepareEvent>(call, async (request, send) => {
        const result = await shard.prepare(request, (progress) => send({ progress }));
        send({ result });
      }),
    Connect: unary<ConnectRequest__Output, ConnectResponse>((request) => shard.connect(request)),
    Steps: (call) => serveSteps(call, shard),
    Release: unary<ReleaseRequest__Output, object>(async (request) => {
      await shard.release(fenceOf(request));
      return {};
    }),
  };
}

function describe({
  identity,
  shard,
  describeDevice,
}: WorkerServiceDependencies): DescribeResponse {
  return {
    ...identity,
    device: describeDevice(),
    fence: shard.state.newest,
    state: describeState(shard.state),
  };
}

function unary<Request, Response>(
  handle: (request: Request) => Promise<Response>,
): grpc.handleUnaryCall<Request, Response> {
  return (call, callback) => {
    handle(call.request).then(
      (response) => callback(null, response),
      (error: unknown) => callback(toServiceError(error)),
    );
  };
}

function streamed<Request, Event>(
  call: grpc.ServerWritableStream<Request, Event>,
  handle: (
    request: Request,
    send: (event: Event) => void,
    cancelled: () => boolean,
  ) => Promise<void>,
): void {
  handle(
    call.request,
    (event) => call.write(event),
    () => call.cancelled,
  ).then(
    () => call.end(),
    (error: unknown) => call.emit('error', toServiceError(error)),
  );
}
