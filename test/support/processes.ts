import { spawnSync } from 'node:child_process';

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
