import type { Worker } from 'node:worker_threads';
import { startThread } from '../../proto/base/job-thread.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import { limits } from '../limits.ts';
import type { TextAnswer, TextJob, TextThreadData } from './text-jobs.ts';

export interface TextThreadOptions {
  jobTimeoutMs: number;
  startTimeoutMs: number;
}

export const textThreadDefaults: TextThreadOptions = {
  jobTimeoutMs: limits.textJobTimeoutMs,
  startTimeoutMs: limits.textThreadStartTimeoutMs,
};

interface PendingJob {
  job: TextJob;
  /** Aborted: nobody waits for the answer any more. */
  signal: AbortSignal;
  resolve(answer: TextAnswer): void;
  reject(error: unknown): void;
}

/**
 * One thread beside the event loop for what can take long on long or hostile input: encoding, and running the model's own template
 * program, which has no step limit. Jobs run one at a time in order; one that exceeds its time is ended with the thread, and the next
 * job gets a new one.
 */
export class TextThread {
  readonly #data: TextThreadData;
  readonly #options: TextThreadOptions;
  readonly #waiting: PendingJob[] = [];
  #running: PendingJob | null = null;
  #worker: Worker | null = null;
  #timer: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(data: TextThreadData, options: TextThreadOptions) {
    this.#data = data;
    this.#options = options;
  }

  /**
   * Throws overloaded when the queue is full, deadline-exceeded when the job took too long, internal when the thread broke, and why the
   * signal was aborted before the job had begun.
   */
  run(job: TextJob, signal: AbortSignal): Promise<TextAnswer> {
    if (this.#closed) {
      return Promise.reject(new HelsError('draining', 'the tokenizer was closed'));
    }
    this.#dropLeft();
    if (this.#waiting.length >= limits.textJobsWaitingMax) {
      const message = `${limits.textJobsWaitingMax} prompts wait to be tokenized already; try again`;
      return Promise.reject(new HelsError('overloaded', message));
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ job, signal, resolve, reject });
      this.#next();
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    const error = new HelsError('draining', 'the tokenizer was closed');
    for (const pending of this.#waiting.splice(0)) pending.reject(error);
    await this.#stop(error);
  }

  /** Looked for where it counts, when a place or the thread is wanted: a listener for each would be up to 64 on the signal of one request. */
  #dropLeft(): void {
    for (const pending of this.#waiting.splice(0)) {
      if (pending.signal.aborted) pending.reject(pending.signal.reason);
      else this.#waiting.push(pending);
    }
  }

  #next(): void {
    if (this.#running !== null || this.#closed) return;
    this.#dropLeft();
    const pending = this.#waiting.shift();
    if (pending === undefined) return;
    this.#running = pending;
    if (this.#worker === null) {
      this.#setTimer(this.#options.startTimeoutMs, 'starting the tokenizer');
      this.#worker = this.#start();
    } else this.#post(this.#worker);
  }

  #start(): Worker {
    const worker = startThread('text-thread-main', import.meta.url, {
      workerData: this.#data,
      resourceLimits: { maxOldGenerationSizeMb: limits.textThreadHeapMiB },
    });
    worker.on('message', (answer: TextAnswer) => {
      if (worker !== this.#worker) return;
      if (answer.type === 'started') this.#post(worker);
      else this.#finish((pending) => pending.resolve(answer));
    });
    worker.on('error', (cause) => {
      if (worker !== this.#worker) return;
      const reason = cause instanceof Error ? cause.message : String(cause);
      void this.#stop(
        new HelsError('internal', `the tokenizer thread broke: ${reason}`, { cause }),
      );
    });
    return worker;
  }

  #post(worker: Worker): void {
    if (this.#running === null) return;
    const task = this.#running.job.type === 'encode' ? 'tokenizing the text' : 'the chat template';
    this.#setTimer(this.#options.jobTimeoutMs, task);
    worker.postMessage(this.#running.job);
  }

  #setTimer(timeoutMs: number, task: string): void {
    this.#clearTimer();
    this.#timer = setTimeout(() => {
      const message = `${task} took longer than ${timeoutMs} ms`;
      void this.#stop(new HelsError('deadline-exceeded', message));
    }, timeoutMs);
  }

  #clearTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** Ends the thread and the job it had; the jobs behind it go on with a new one. */
  async #stop(error: HelsError): Promise<void> {
    const worker = this.#worker;
    this.#worker = null;
    this.#finish((pending) => pending.reject(error));
    await worker?.terminate();
  }

  #finish(settle: (pending: PendingJob) => void): void {
    this.#clearTimer();
    const pending = this.#running;
    this.#running = null;
    if (pending !== null) settle(pending);
    this.#next();
  }
}
