import type { Command } from 'commander';
import { version } from '../../../proto/base/version.ts';
import { type Context, localCommand, outputOf } from '../context.ts';

const versions = () => ({ hels: version(), node: process.versions.node });

const textOf = ({ hels, node }: ReturnType<typeof versions>) => `hels ${hels}, node ${node}`;

/** What `--version` prints. */
export function versionText(json: boolean): string {
  return json ? JSON.stringify(versions()) : textOf(versions());
}

export function addVersionCommand(program: Command, context: Context): void {
  localCommand(program.command('version'))
    .description('version of Hels and of Node.js')
    .action((_options: object, command: Command) => {
      const result = versions();
      outputOf(context, command).result(result, () => textOf(result));
    });
}
