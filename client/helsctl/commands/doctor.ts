import type { Command } from 'commander';
import { type Context, globalOptions, localCommand } from '../context.ts';
import { runTool } from '../run-tool.ts';

export function addDoctorCommand(program: Command, context: Context): void {
  localCommand(program.command('doctor'))
    .description('what this host has for Hels: processor, GPUs and their libraries, or why none')
    .action(async (_options: object, command: Command) => {
      const json = globalOptions(command).json ? ['--json'] : [];
      context.setExitCode(await runTool('worker/tools/main', ['doctor', ...json]));
    });
}
