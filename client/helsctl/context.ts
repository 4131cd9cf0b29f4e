import type { Command } from 'commander';
import { allOrNone, readTlsIdentity, type TlsIdentity } from '../../proto/base/tls.ts';
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
  tlsCa?: string;
  tlsCert?: string;
  tlsKey?: string;
}

export function globalOptions(command: Command): GlobalOptions {
  return command.optsWithGlobals<GlobalOptions>();
}

export function outputOf(context: Context, command: Command): Output {
  return createOutput(globalOptions(command).json, context.stdout, context.stderr);
}

/** Throws config-invalid for files that are missing or not what they should be. */
function tlsOf({ tlsCa, tlsCert, tlsKey }: GlobalOptions): { tls?: TlsIdentity } {
  const files = allOrNone({
    authority: { value: tlsCa ?? null, field: '--tls-ca' },
    certificate: { value: tlsCert ?? null, field: '--tls-cert' },
    key: { value: tlsKey ?? null, field: '--tls-key' },
  });
  return files === null ? {} : { tls: readTlsIdentity(files, ['client'], Date.now()) };
}

/** Runs `use` with a client of the addressed controller and closes it afterwards. */
export async function withClient<T>(
  command: Command,
  use: (client: HelsClient) => Promise<T>,
): Promise<T> {
  const options = globalOptions(command);
  const client = new HelsClient({ address: options.address, ...tlsOf(options) });
  try {
    return await use(client);
  } finally {
    client.close();
  }
}
