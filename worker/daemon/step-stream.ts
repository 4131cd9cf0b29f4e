/** One Steps call: requests in, responses out in the same order. */
import type * as grpc from '@grpc/grpc-js';
import type { StepRequest__Output } from '../../proto/gen/hels/v1/StepRequest.ts';
import type { StepResponse } from '../../proto/gen/hels/v1/StepResponse.ts';
import { toServiceError } from '../../proto/rpc/status.ts';
import type { Fence } from './fence.ts';
import type { Shard } from './shard.ts';
import { fenceOf } from './wire.ts';

type StepCall = grpc.ServerDuplexStream<StepRequest__Output, StepResponse>;

/**
 * Ends in one of four ways: the controller ends its side (results are finished first); it goes away (its epoch ends if steps were in
 * flight); a request is refused; the epoch ends on this worker. The last two answer what is in flight, then fail the call with the reason.
 */
export function serveSteps(call: StepCall, shard: Shard): void {
  let inFlight = 0;
  let closing = false;
  let watched: AbortSignal | null = null;
  let lastFence: Fence | null = null;
  let writes: Promise<void> = Promise.resolve();
  /** Gives up the write under way: there is one at a time. */
  let giveUpWrite: (() => void) | null = null;

  // No race against a promise that lives as long as the call: each step would leave its reaction there.
  const write = (response: StepResponse) =>
    new Promise<void>((resolve) => {
      if (call.cancelled) return resolve();
      giveUpWrite = resolve;
      call.write(response, () => resolve());
    });

  const finish = (error: unknown) => {
    if (closing) return;
    closing = true;
    void writes.then(() => {
      if (call.cancelled) return;
      if (error === null) call.end();
      else call.emit('error', toServiceError(error));
    });
  };

  const watch = (fence: Fence) => {
    const signal = shard.endedSignal(fence);
    if (signal === null || signal === watched) return;
    watched = signal;
    signal.addEventListener('abort', () => finish(signal.reason), { once: true });
  };

  const accept = (request: StepRequest__Output) => {
    const fence = fenceOf(request);
    const response = shard.submit(request);
    lastFence = fence;
    inFlight += 1;
    watch(fence);
    writes = writes
      .then(() => response)
      .then(write)
      .then(() => {
        inFlight -= 1;
        shard.answered(fence);
      });
  };

  call.on('data', (request: StepRequest__Output) => {
    if (closing) return;
    try {
      accept(request);
    } catch (error) {
      finish(error);
    }
  });
  call.on('end', () => finish(null));
  call.on('cancelled', () => {
    closing = true;
    giveUpWrite?.();
    if (inFlight > 0 && lastFence !== null) shard.abandon(lastFence);
  });
}
