/** The built helsctl as a process. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export const helsctlProgram = fileURLToPath(
  new URL('../../dist/client/helsctl/main.js', import.meta.url),
);
const deadlineMs = 50_000;
const outputBytesMax = 16 * 2 ** 20;

export interface CommandResult {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** Resolves when the command ended by itself, whatever its exit code; rejects when a signal or the deadline ended it. */
export function helsctl(...parameters: string[]): Promise<CommandResult> {
  if (!existsSync(helsctlProgram))
    throw new Error(`${helsctlProgram} is not built; run: make build`);
  return new Promise((resolve, reject) => {
    const options = { timeout: deadlineMs, maxBuffer: outputBytesMax };
    execFile(
      process.execPath,
      [helsctlProgram, ...parameters],
      options,
      (error, stdout, stderr) => {
        const exitCode = error === null ? 0 : error.code;
        if (typeof exitCode === 'number') resolve({ exitCode, stdout, stderr });
        else reject(error ?? new Error('no exit code'));
      },
    );
  });
}
