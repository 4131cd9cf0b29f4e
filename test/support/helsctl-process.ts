import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { childrenOf, isRunning } from './processes.ts';

const entry = fileURLToPath(new URL('../../dist/client/helsctl/main.js', import.meta.url));

export interface CommandResult {
  /** Null when a signal ended it. */
  exitCode: number | null;
  stdout: string;
  stderr: string;
  /** How many processes it started that we saw, and the ids of those that outlive it. */
  started: number;
  left: number[];
}

export interface RunningCommand {
  process: ChildProcess;
  /** What it has printed so far. */
  printed(): { stdout: string; stderr: string };
  ended: Promise<CommandResult>;
}

/** helsctl as a process, with its output in pipes; killed at the deadline. */
export function startHelsctl(
  parameters: string[],
  options: { environment?: Record<string, string>; deadlineMs?: number } = {},
): RunningCommand {
  if (!existsSync(entry)) throw new Error(`${entry} is missing; build first: make build`);
  const child = spawn(process.execPath, [entry, ...parameters], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.environment },
  });
  const text = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (piece: string) => {
      text[name] += piece;
    });
  }
  const children = new Set<number>();
  const watch = setInterval(() => {
    for (const id of childrenOf(child.pid ?? 0)) children.add(id);
  }, 50);
  const timer = setTimeout(() => child.kill('SIGKILL'), options.deadlineMs ?? 90_000);
  const ended = new Promise<CommandResult>((resolve) => {
    child.once('close', (exitCode) => {
      clearTimeout(timer);
      clearInterval(watch);
      resolve({
        exitCode,
        ...text,
        started: children.size,
        left: [...children].filter(isRunning),
      });
    });
  });
  return { process: child, printed: () => ({ ...text }), ended };
}

export function helsctl(...parameters: string[]): Promise<CommandResult> {
  return startHelsctl(parameters).ended;
}
