import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** Process ids whose command line contains `text`: to prove that nothing was left running. Throws when it cannot tell. */
export function processesWith(text: string): number[] {
  const { status, stdout, stderr, error } = spawnSync('pgrep', ['-f', '--', text], {
    encoding: 'utf8',
  });
  // 1: none matches.
  if (status !== 0 && status !== 1) throw new Error(`pgrep failed: ${error?.message ?? stderr}`);
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map(Number);
}

/** Process ids of the children of `processId` now; empty when it has ended. */
export function childrenOf(processId: number): number[] {
  try {
    const text = readFileSync(`/proc/${processId}/task/${processId}/children`, 'utf8');
    return text.split(' ').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

/** Whether the process runs a command; false for one that has ended, whether or not its parent knows. */
export function isRunning(processId: number): boolean {
  try {
    return readFileSync(`/proc/${processId}/cmdline`, 'utf8') !== '';
  } catch {
    return false;
  }
}
