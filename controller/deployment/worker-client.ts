import type * as grpc from '@grpc/grpc-js';
import { HelsError } from '../../proto/domain/errors.ts';
import type { ConnectRequest } from '../../proto/gen/hels/v1/ConnectRequest.ts';
import type { ConnectResponse__Output } from '../../proto/gen/hels/v1/ConnectResponse.ts';
import type { DescribeResponse__Output } from '../../proto/gen/hels/v1/DescribeResponse.ts';
import type { Fence } from '../../proto/gen/hels/v1/Fence.ts';
import type { OpenProbeRequest } from '../../proto/gen/hels/v1/OpenProbeRequest.ts';
import type { PrepareEvent__Output } from '../../proto/gen/hels/v1/PrepareEvent.ts';
import type { PrepareRequest } from '../../proto/gen/hels/v1/PrepareRequest.ts';
import type { PrepareResult__Output } from '../../proto/gen/hels/v1/PrepareResult.ts';
import type { ProbeCollectiveRequest } from '../../proto/gen/hels/v1/ProbeCollectiveRequest.ts';
import type { ProfileEvent__Output } from '../../proto/gen/hels/v1/ProfileEvent.ts';
import type { ProfileRequest } from '../../proto/gen/hels/v1/ProfileRequest.ts';
import type { WorkerClient as WorkerStub } from '../../proto/gen/hels/v1/Worker.ts';
import { channelOptions, WorkerService } from '../../proto/rpc/definitions.ts';
import { fromServiceError } from '../../proto/rpc/status.ts';

const describeDeadlineMs = 10_000;

export interface MeasuredPoints {
  seconds: Map<number, number>;
  copyBytesPerSecond: number;
}

/** The controller's side of one worker's service. Every call has a deadline and throws HelsError naming the worker's address. */
export class WorkerClient {
  readonly address: string;
  readonly stub: WorkerStub;
  readonly #nowUnixMs: () => number;

  constructor(address: string, credentials: grpc.ChannelCredentials, nowUnixMs: () => number) {
    this.address = address;
    this.#nowUnixMs = nowUnixMs;
    this.stub = new WorkerService(address, credentials, channelOptions);
  }

  describe(): Promise<DescribeResponse__Output> {
    return new Promise((resolve, reject) => {
      this.stub.describe({}, this.#deadline(describeDeadlineMs), (error, response) => {
        if (error) reject(fromServiceError(error, this.address));
        else if (response) resolve(response);
      });
    });
  }

  /** Measured seconds by index of the request's points; those that its budget left no time for are missing. */
  async profile(
    request: ProfileRequest,
    deadlineMs: number,
    onProgress: (fraction: number) => void,
  ): Promise<MeasuredPoints> {
    const seconds = new Map<number, number>();
    let copyBytesPerSecond = 0;
    const stream = this.stub.profile(request, this.#deadline(deadlineMs));
    await this.#each<ProfileEvent__Output>(stream, (event) => {
      if (event.event === 'copyBytesPerSecond') copyBytesPerSecond = event.copyBytesPerSecond ?? 0;
      if (!event.point) return;
      seconds.set(event.point.index, event.point.seconds);
      onProgress(event.point.progress);
    });
    return { seconds, copyBytesPerSecond };
  }

  /** Resolves to the address of the worker's end of a collective to be measured. */
  openProbe(request: OpenProbeRequest): Promise<string> {
    return new Promise((resolve, reject) => {
      this.stub.openProbe(request, this.#deadline(describeDeadlineMs), (error, response) => {
        if (error) reject(fromServiceError(error, this.address));
        else resolve(response?.collectiveAddress ?? '');
      });
    });
  }

  /** Resolves to the seconds of one step's collectives, by the request's token counts. */
  probeCollective(request: ProbeCollectiveRequest, deadlineMs: number): Promise<number[]> {
    return new Promise((resolve, reject) => {
      this.stub.probeCollective(request, this.#deadline(deadlineMs), (error, response) => {
        if (error) reject(fromServiceError(error, this.address));
        else resolve(response?.seconds ?? []);
      });
    });
  }

  async prepare(
    request: PrepareRequest,
    deadlineMs: number,
    onProgress: (message: string) => void,
  ): Promise<PrepareResult__Output> {
    let result: PrepareResult__Output | null = null;
    const stream = this.stub.prepare(request, this.#deadline(deadlineMs));
    await this.#each<PrepareEvent__Output>(stream, (event) => {
      if (event.progress) onProgress(event.progress);
      if (event.result) result = event.result;
    });
    if (result === null) {
      throw new HelsError('internal', `${this.address} ended its preparation without a result`);
    }
    return result;
  }

  connect(request: ConnectRequest, deadlineMs: number): Promise<ConnectResponse__Output> {
    return new Promise((resolve, reject) => {
      this.stub.connect(request, this.#deadline(deadlineMs), (error, response) => {
        if (error) reject(fromServiceError(error, this.address));
        else if (response) resolve(response);
        else reject(new HelsError('internal', `${this.address} gave an empty answer`));
      });
    });
  }

  release(fence: Fence, deadlineMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.stub.release({ fence }, this.#deadline(deadlineMs), (error) => {
        if (error) reject(fromServiceError(error, this.address));
        else resolve();
      });
    });
  }

  close(): void {
    this.stub.close();
  }

  #deadline(ms: number): grpc.CallOptions {
    return { deadline: this.#nowUnixMs() + ms };
  }

  async #each<T>(stream: grpc.ClientReadableStream<T>, use: (message: T) => void): Promise<void> {
    try {
      for await (const message of stream) use(message as T);
    } catch (error) {
      throw fromServiceError(error, this.address);
    }
  }
}
