import type * as grpc from '@grpc/grpc-js';
import { HelsError } from '../../proto/domain/errors.ts';
import type { ConnectRequest } from '../../proto/gen/hels/v1/ConnectRequest.ts';
import type { DescribeRequest } from '../../proto/gen/hels/v1/DescribeRequest.ts';
import type { DescribeResponse__Output } from '../../proto/gen/hels/v1/DescribeResponse.ts';
import type { Fence } from '../../proto/gen/hels/v1/Fence.ts';
import type { PrepareEvent__Output } from '../../proto/gen/hels/v1/PrepareEvent.ts';
import type { PrepareRequest } from '../../proto/gen/hels/v1/PrepareRequest.ts';
import type { PrepareResult__Output } from '../../proto/gen/hels/v1/PrepareResult.ts';
import type { ProfileEvent__Output } from '../../proto/gen/hels/v1/ProfileEvent.ts';
import type { ProfileRequest } from '../../proto/gen/hels/v1/ProfileRequest.ts';
import type { WorkerClient as WorkerStub } from '../../proto/gen/hels/v1/Worker.ts';
import { channelOptions, WorkerService } from '../../proto/rpc/definitions.ts';
import { fromServiceError } from '../../proto/rpc/status.ts';

const describeDeadlineMs = 10_000;

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

  describe(request: DescribeRequest): Promise<DescribeResponse__Output> {
    return new Promise((resolve, reject) => {
      this.stub.describe(request, this.#deadline(describeDeadlineMs), (error, response) => {
        if (error) reject(fromServiceError(error, this.address));
        else if (response) resolve(response);
      });
    });
  }

  /** Measured seconds by point, in the order of the request's points. */
  async profile(
    request: ProfileRequest,
    deadlineMs: number,
    onPoint: (done: number) => void,
  ): Promise<number[]> {
    const seconds: number[] = [];
    const stream = this.stub.profile(request, this.#deadline(deadlineMs));
    await this.#each<ProfileEvent__Output>(stream, (event) => {
      seconds[event.index] = event.seconds;
      onPoint(event.index + 1);
    });
    const expected = request.points?.length ?? 0;
    if (seconds.length !== expected) {
      throw new HelsError(
        'internal',
        `${this.address} measured ${seconds.length} of ${expected} points`,
      );
    }
    return seconds;
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

  /** Resolves to the rank's kernel fingerprint. */
  connect(request: ConnectRequest, deadlineMs: number): Promise<string> {
    return new Promise((resolve, reject) => {
      this.stub.connect(request, this.#deadline(deadlineMs), (error, response) => {
        if (error) reject(fromServiceError(error, this.address));
        else resolve(response?.fingerprint ?? '');
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
