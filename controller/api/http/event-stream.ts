import type { ServerResponse } from 'node:http';
import { limits } from '../../limits.ts';
import { readerStalled } from '../request-deadline.ts';
import type { ErrorAnswer } from './api-error.ts';

/**
 * Server-sent events of one answer. Headers go out with the first event, so that until then a failure can still be a status; but a stream
 * that was silent for long says that it lives, because proxies drop a connection that does not.
 */
export class EventStream {
  readonly #response: ServerResponse;
  readonly #signal: AbortSignal;
  readonly #quietMs: number;
  /** Runs from the beginning to the last event. */
  #quiet: NodeJS.Timeout | null = null;

  constructor(response: ServerResponse, signal: AbortSignal, quietMs: number) {
    this.#response = response;
    this.#signal = signal;
    this.#quietMs = quietMs;
  }

  get opened(): boolean {
    return this.#response.headersSent;
  }

  /** The answer is under way. To be followed by `end` or `fail`, whatever happens. */
  begin(): void {
    this.#quiet = setInterval(() => this.#stay(), this.#quietMs);
    this.#response.once('close', () => this.#fallSilent());
  }

  /** Resolves when more can be written; throws deadline-exceeded, the connection cut, when the client does not read, the abort reason when it left. */
  async send(data: unknown): Promise<void> {
    if (!this.opened) this.#open();
    this.#quiet?.refresh();
    if (!this.#response.write(`data: ${JSON.stringify(data)}\n\n`)) await this.#drained();
  }

  end(): void {
    this.#fallSilent();
    this.#response.end('data: [DONE]\n\n');
  }

  /** The last event of an answer that broke: a client never waits for one that does not come. Nothing while a status can say it. */
  fail(answer: ErrorAnswer): void {
    this.#fallSilent();
    if (!this.opened) return;
    this.#response.end(`data: ${JSON.stringify(answer.body)}\n\n`);
  }

  #open(): void {
    this.#response.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      'x-accel-buffering': 'no',
      'x-content-type-options': 'nosniff',
    });
  }

  /** A comment, which clients skip: an answer may have to wait in the queue, or for other workers. */
  #stay(): void {
    if (!this.opened) this.#open();
    if (!this.#response.writableNeedDrain) this.#response.write(': waiting\n\n');
  }

  #fallSilent(): void {
    if (this.#quiet !== null) clearInterval(this.#quiet);
    this.#quiet = null;
  }

  #drained(): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (error?: unknown) => {
        clearTimeout(timer);
        this.#response.off('drain', onDrain);
        this.#signal.removeEventListener('abort', onAbort);
        if (error === undefined) resolve();
        else reject(error);
      };
      const onDrain = () => settle();
      const onAbort = () => settle(this.#signal.reason);
      const timer = setTimeout(() => {
        settle(readerStalled());
        // Nobody would read a last event: what waits here would be kept for as long as the peer keeps the connection.
        this.#response.destroy();
      }, limits.writeStallTimeoutMs);
      this.#response.once('drain', onDrain);
      this.#signal.addEventListener('abort', onAbort, { once: true });
      if (this.#signal.aborted) onAbort();
    });
  }
}
