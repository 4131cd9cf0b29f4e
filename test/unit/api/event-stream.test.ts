import { EventEmitter } from 'node:events';
import type { ServerResponse } from 'node:http';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { EventStream } from '../../../controller/api/http/event-stream.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

class Response extends EventEmitter {
  headersSent = false;
  writableNeedDrain = false;
  readonly written: string[] = [];

  writeHead(): void {
    this.headersSent = true;
  }

  write(text: string): boolean {
    this.written.push(text);
    return !this.writableNeedDrain;
  }

  end(text: string): void {
    this.written.push(text);
    this.emit('close');
  }
}

function opened() {
  const response = new Response();
  const stream = new EventStream(
    response as unknown as ServerResponse,
    new AbortController().signal,
    quiet,
  );
  stream.begin();
  return { response, stream };
}

const quiet = 15_000;
const comment = ': waiting\n\n';

it('says that it waits whenever it was silent for long, and nothing after its end', async () => {
  const { response, stream } = opened();
  await stream.send(1);
  await vi.advanceTimersByTimeAsync(quiet - 1);
  await stream.send(2);
  await vi.advanceTimersByTimeAsync(quiet - 1);
  expect(response.written).toEqual(['data: 1\n\n', 'data: 2\n\n']);
  await vi.advanceTimersByTimeAsync(1 + quiet);
  expect(response.written.slice(2)).toEqual([comment, comment]);
  stream.end();
  await vi.advanceTimersByTimeAsync(3 * quiet);
  expect(response.written.slice(4)).toEqual(['data: [DONE]\n\n']);
});

const failure = { status: 503, headers: {}, body: { error: { message: 'lost' } } } as never;

it('leaves a failure to the status while it has said nothing', async () => {
  const { response, stream } = opened();
  await vi.advanceTimersByTimeAsync(quiet - 1);
  stream.fail(failure);
  await vi.advanceTimersByTimeAsync(3 * quiet);
  expect(response.written).toEqual([]);
  expect(stream.opened).toBe(false);
});

it('says that it waits before the first event too; then a failure is an event', async () => {
  const { response, stream } = opened();
  await vi.advanceTimersByTimeAsync(2 * quiet);
  expect(stream.opened).toBe(true);
  stream.fail(failure);
  const last = 'data: {"error":{"message":"lost"}}\n\n';
  expect(response.written).toEqual([comment, comment, last]);
});

it('does not heap up comments for a client that does not read, nor for one that has left', async () => {
  const { response, stream } = opened();
  await stream.send(1);
  response.writableNeedDrain = true;
  await vi.advanceTimersByTimeAsync(3 * quiet);
  response.writableNeedDrain = false;
  response.emit('close');
  await vi.advanceTimersByTimeAsync(3 * quiet);
  expect(response.written).toEqual(['data: 1\n\n']);
});
