import { EventEmitter } from 'node:events';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import type { StepResponse } from '../../../proto/gen/hels/v1/StepResponse.ts';
import type { Shard } from '../../../worker/daemon/shard.ts';
import { serveSteps } from '../../../worker/daemon/step-stream.ts';
import { eventually } from '../../support/deadline.ts';

const fence = { term: 1, epoch: 1 };

/** The server's end of a Steps call: what is written is answered at once, or held as long as the client does not read. */
class FakeCall extends EventEmitter {
  cancelled = false;
  reads = true;
  ended = false;
  readonly written: number[] = [];

  write(response: StepResponse, done: () => void): void {
    if (!this.reads) return;
    this.written.push(Number(response.step));
    done();
  }

  end(): void {
    this.ended = true;
  }

  cancel(): void {
    this.cancelled = true;
    this.emit('cancelled');
  }
}

class FakeShard {
  answers = 0;
  abandoned = 0;
  readonly #ended = new AbortController();

  submit({ step }: { step: number }): Promise<StepResponse> {
    return Promise.resolve({ fence, step });
  }

  endedSignal(): AbortSignal {
    return this.#ended.signal;
  }

  answered(): void {
    this.answers += 1;
  }

  abandon(): void {
    this.abandoned += 1;
  }
}

function serve() {
  const call = new FakeCall();
  const shard = new FakeShard();
  serveSteps(call as never, shard as unknown as Shard);
  const run = async (first: number, count: number) => {
    const before = shard.answers;
    for (let step = first; step < first + count; step += 1) call.emit('data', { fence, step });
    await eventually(10_000, `${count} answers`, () => shard.answers === before + count);
  };
  return { call, shard, run };
}

/** Bytes of the JavaScript heap that are reachable. */
function liveBytes(): number {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
  return process.memoryUsage().heapUsed;
}

describe('a step stream', () => {
  it('answers in order, then ends when the controller ends its side', async () => {
    const { call, run } = serve();
    await run(1, 3);
    call.emit('end');
    await eventually(1_000, 'the end', () => call.ended);
    expect(call.written).toEqual([1, 2, 3]);
  });

  it('keeps nothing of the steps that it has answered', async () => {
    const { call, run } = serve();
    const stepsPerRun = 5_000;
    await run(1, stepsPerRun);
    call.written.length = 0;
    const before = liveBytes();
    for (let turn = 1; turn <= 4; turn += 1) {
      await run(1 + turn * stepsPerRun, stepsPerRun);
      call.written.length = 0;
    }
    const bytesPerStep = (liveBytes() - before) / (4 * stepsPerRun);
    expect(bytesPerStep).toBeLessThan(40);
  });

  it('gives up the answers that nobody reads when the controller goes away, and abandons the epoch', async () => {
    const { call, shard } = serve();
    call.reads = false;
    for (const step of [1, 2]) call.emit('data', { fence, step });
    await new Promise((resolve) => setImmediate(resolve));
    call.cancel();
    expect(shard.abandoned).toBe(1);
    await eventually(1_000, 'both are given up', () => shard.answers === 2);
    expect(call.written).toEqual([]);
  });
});
