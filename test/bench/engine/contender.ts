/** One engine under test in a process of its own: its threads and its memory are nobody else's. */
import { type ChildProcess, fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

interface Answer {
  id: number;
  result: unknown;
  error: string | null;
}

const loader = fileURLToPath(new URL('../../support/typescript-loader.mjs', import.meta.url));
const callDeadlineMs = 600_000;

export class Contender {
  readonly name: string;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve(value: unknown): void; reject(e: Error): void }>();
  #calls = 0;

  /** `program`: a file of this folder that calls serveCalls(). */
  constructor(name: string, program: string, parameters: readonly string[] = []) {
    this.name = name;
    this.#child = fork(fileURLToPath(new URL(program, import.meta.url)), parameters, {
      execArgv: ['--no-warnings', '--import', loader],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#child.on('message', (answer) => this.#settle(answer as Answer));
    this.#child.on('exit', (code, signal) => {
      const error = new Error(`${name} ended with ${signal ?? `exit code ${code}`}`);
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    });
  }

  async call<Result>(method: string, parameters: unknown = null): Promise<Result> {
    if (this.#child.exitCode !== null || !this.#child.connected) {
      throw new Error(`${this.name} is not running`);
    }
    const id = ++this.#calls;
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<Result>((resolve, reject) => {
        this.#waiting.set(id, { resolve: (value) => resolve(value as Result), reject });
        timer = setTimeout(
          () => reject(new Error(`${this.name}: ${method} took over ${callDeadlineMs / 1000} s`)),
          callDeadlineMs,
        );
        this.#child.send({ id, method, parameters });
      });
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(id);
    }
  }

  /** Bytes that only this process has or shares in memory, files mapped from the page cache left out. */
  residentBytes(): number {
    return residentBytes(this.#child.pid ?? 0);
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await exited;
  }

  #settle({ id, result, error }: Answer): void {
    const waiting = this.#waiting.get(id);
    if (error === null) waiting?.resolve(result);
    else waiting?.reject(new Error(`${this.name}: ${error}`));
  }
}

/** Proportional set size of a process: anonymous and shared memory. */
function residentBytes(processId: number): number {
  const rollup = readFileSync(`/proc/${processId}/smaps_rollup`, 'utf8');
  const kibibytes = (field: string) =>
    Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(rollup)?.[1] ?? 0);
  return 1024 * (kibibytes('Pss_Anon') + kibibytes('Pss_Shmem'));
}
