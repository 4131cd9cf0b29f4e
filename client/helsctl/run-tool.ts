import { spawn } from 'node:child_process';
import type { Command } from 'commander';
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

/** A command's own options that were given, as its tool takes them: `--name=value`, and `--name` for a flag. */
export function toolParameters(command: Command): string[] {
  return command.options.flatMap((option) => {
    const value: unknown = command.getOptionValue(option.attributeName());
    if (typeof value === 'string') return [`${option.long}=${value}`];
    return value === true ? [String(option.long)] : [];
  });
}
