import type { Command } from 'commander';
import { version } from '../../../proto/base/version.ts';
import { type Context, outputOf } from '../context.ts';

export function addVersionCommand(program: Command, context: Context): void {
  program
    .command('version')
    .description('version of Hels and of Node.js')
    .action((_options: object, command: Command) => {
      const result = { hels: version(), node: process.versions.node };
      outputOf(context, command).result(result, () => `hels ${result.hels}, node ${result.node}`);
    });
}
