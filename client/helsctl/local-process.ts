import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { lifelineEnvironment } from '../../proto/base/lifeline.ts';
import { type ErrorCode, HelsError } from '../../proto/domain/errors.ts';

export interface ListeningEvent {
  event: 'listening';
  address?: string;
  http?: string;
  grpc?: string;
}

/** What a daemon's exit code says; others, a signal's end too: nothing answers. */
const codeOfExit: ReadonlyMap<number, ErrorCode> = new Map([
  [1, 'internal'],
  [2, 'usage'],
  [3, 'config-invalid'],
  [4, 'model-invalid'],
  [6, 'denied'],
]);

/** A daemon of ours as a child process: it says on stdout when it listens; its log goes to a file. */
export class LocalProcess {
  readonly name: string;
  readonly logFile: string;
  /** What earlier processes have left in the log. */
  readonly #earlierBytes: number;
  readonly #child: ChildProcess;
  readonly #exited: Promise<number | null>;

  constructor(name: string, entry: string, parameters: string[], logFile: string) {
    this.name = name;
    this.logFile = logFile;
    const log = openSync(logFile, 'a');
    this.#earlierBytes = fstatSync(log).size;
    this.#child = spawn(process.execPath, [entry, ...parameters], {
      // Its standard input is never written to: it ends when we do, even by SIGKILL.
      stdio: ['pipe', 'pipe', log],
      env: { ...process.env, ...lifelineEnvironment },
      // Its own process group: Ctrl-C reaches it through us, in order.
      detached: true,
    });
    closeSync(log);
    this.#exited = new Promise((resolve) => {
      this.#child.once('exit', (code) => resolve(code));
      this.#child.once('error', () => resolve(null));
    });
  }

  /** 0 when the process could not be started. */
  get processId(): number {
    return this.#child.pid ?? 0;
  }

  /** Exit code; null when a signal ended it. */
  get exited(): Promise<number | null> {
    return this.#exited;
  }

  /** Resolves with the daemon's `listening` line; throws with the end of its log, and the code that its exit has, when it exits or the deadline passes first. */
  async listening(deadlineMs: number): Promise<ListeningEvent> {
    const { stdout } = this.#child;
    if (stdout === null) throw new HelsError('internal', `${this.name} has no stdout`);
    const line = new Promise<string>((resolve) => {
      createInterface({ input: stdout }).on('line', (text) => {
        if (text.includes('"listening"')) resolve(text);
      });
    });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), deadlineMs);
    });
    const first = await Promise.race([line, late, this.#exited]);
    clearTimeout(timer);
    if (typeof first === 'string' && first !== 'late') return JSON.parse(first) as ListeningEvent;
    const what = first === 'late' ? `did not start within ${deadlineMs} ms` : `exited (${first})`;
    const code = typeof first === 'number' ? codeOfExit.get(first) : undefined;
    throw new HelsError(
      code ?? 'unreachable',
      `${this.name} ${what}; the end of its log:\n${this.logTail()}`,
    );
  }

  /** Of this process alone. */
  logTail(lines = 12): string {
    const own = readFileSync(this.logFile).subarray(this.#earlierBytes).toString();
    return own.trimEnd().split('\n').slice(-lines).join('\n');
  }

  /** SIGTERM, then SIGKILL when the deadline passes. */
  async stop(deadlineMs: number): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), deadlineMs);
    await this.#exited;
    clearTimeout(timer);
  }
}
