import { execFileSync } from 'node:child_process';

/** Process ids whose command line contains `text`: to prove that nothing was left running. */
export function processesWith(text: string): number[] {
  try {
    return execFileSync('pgrep', ['-f', text], { encoding: 'utf8' })
      .split('\n')
      .filter((line) => line !== '')
      .map(Number);
  } catch {
    return [];
  }
}
