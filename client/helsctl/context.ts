import type { Command } from 'commander';
import { HelsClient } from '../sdk/index.ts';
import { createOutput, type Output } from './output.ts';

/** What every command gets from `main`: nothing here is ambient. */
export interface Context {
  stdin: NodeJS.ReadStream;
  stdout: NodeJS.WriteStream;
  stderr: NodeJS.WriteStream;
  /** Aborted by Ctrl-C, SIGTERM or SIGHUP. */
  signal: AbortSignal;
  /** The command's exit code when it ends without an error. */
  setExitCode(code: number): void;
}

export interface GlobalOptions {
  address: string;
  json: boolean;
}

export function globalOptions(command: Command): GlobalOptions {
  return command.optsWithGlobals<GlobalOptions>();
}

export function outputOf(context: Context, command: Command): Output {
  return createOutput(globalOptions(command).json, context.stdout, context.stderr);
}

/** Runs `use` with a client of the addressed controller and closes it afterwards. */
export async function withClient<T>(
  command: Command,
  use: (client: HelsClient) => Promise<T>,
): Promise<T> {
  const client = new HelsClient({ address: globalOptions(command).address });
  try {
    return await use(client);
  } finally {
    client.close();
  }
}
