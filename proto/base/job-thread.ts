/** Work that would hold up the event loop, on a thread beside it: of each module that does some, an entry that serves it. */
import { once } from 'node:events';
import { parentPort, Worker, type WorkerOptions } from 'node:worker_threads';
import { type ErrorCode, HelsError } from '../domain/errors.ts';

/** Of the module `entry` beside the one whose import.meta.url is `beside`. */
export function startThread(entry: string, beside: string, options: WorkerOptions = {}): Worker {
  // The source has the extension .ts, the built program .js.
  const extension = beside.slice(beside.lastIndexOf('.'));
  const worker = new Worker(new URL(`./${entry}${extension}`, beside), options);
  worker.unref();
  return worker;
}

/** `code` null: no HelsError. */
type Reply<Answer> =
  | { answer: Answer }
  | { failure: { code: ErrorCode | null; message: string; field: string | null } };

/** To be called once by the entry: what it `does` with each job. Jobs and answers are plain data. */
export function serveJobs<Job, Answer>(does: (job: Job) => Answer | Promise<Answer>): void {
  const port = parentPort;
  if (port === null) throw new Error('jobs are served in a thread of their own');
  port.on('message', async (job: Job) => {
    let reply: Reply<Answer>;
    try {
      reply = { answer: await does(job) };
    } catch (error) {
      const { code = null, field = null } = error instanceof HelsError ? error : {};
      const message = error instanceof Error ? error.message : String(error);
      reply = { failure: { code, message, field } };
    }
    port.postMessage(reply);
  });
}

/** With the one that runs. */
const jobsMax = 16;

/** One job at a time, in order, `jobsMax` at once. The thread starts with the first, and a new one after it broke; idle, it keeps no process from ending. */
export class JobThread<Job, Answer> {
  readonly #start: () => Worker;
  #worker: Worker | null = null;
  #turn: Promise<unknown> = Promise.resolve();
  #jobs = 0;

  /** As for startThread; the entry calls serveJobs. */
  constructor(entry: string, beside: string) {
    this.#start = () => startThread(entry, beside);
  }

  /** Throws what the job throws: a HelsError, or an Error with the message alone; overloaded when too many wait. */
  async run(job: Job): Promise<Answer> {
    if (this.#jobs === jobsMax) {
      throw new HelsError('overloaded', `${jobsMax} jobs wait for this one's thread; try again`);
    }
    this.#jobs += 1;
    const answer = this.#turn
      .then(() => this.#ask(job))
      .finally(() => {
        this.#jobs -= 1;
      });
    this.#turn = answer.catch(() => undefined);
    return await answer;
  }

  /** Ends the job that runs. */
  async close(): Promise<void> {
    await this.#worker?.terminate();
  }

  async #ask(job: Job): Promise<Answer> {
    const worker = this.#worker ?? this.#open();
    const settled = new AbortController();
    const { signal } = settled;
    worker.ref();
    try {
      worker.postMessage(job);
      const broke = once(worker, 'exit', { signal }).then(() => {
        throw new HelsError('internal', 'the thread of the job has ended');
      });
      // Rejects with what broke the thread, too.
      const [reply] = await Promise.race([once(worker, 'message', { signal }), broke]);
      return answerOf(reply as Reply<Answer>);
    } finally {
      settled.abort();
      worker.unref();
    }
  }

  #open(): Worker {
    const worker = this.#start();
    const forget = () => {
      if (this.#worker === worker) this.#worker = null;
    };
    // One that breaks while nobody waits for it would end the process.
    worker.on('error', forget);
    worker.on('exit', forget);
    this.#worker = worker;
    return worker;
  }
}

function answerOf<Answer>(reply: Reply<Answer>): Answer {
  if ('answer' in reply) return reply.answer;
  const { code, message, field } = reply.failure;
  if (code === null) throw new Error(message);
  throw new HelsError(code, message, field === null ? {} : { field });
}
