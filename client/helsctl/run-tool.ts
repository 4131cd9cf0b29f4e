import { spawn } from 'node:child_process';
import { programPath } from './program-path.ts';

/** Runs a local tool with this terminal as its own; resolves to its exit code (1 when a signal ended it). */
export function runTool(
  tool: 'controller/tools/main' | 'worker/tools/main',
  parameters: string[],
): Promise<number> {
  const child = spawn(process.execPath, [programPath(tool), ...parameters], { stdio: 'inherit' });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? 1));
  });
}
