import { type Command, Help, type Option } from 'commander';
import { allOrNone, readTlsIdentity, type TlsIdentity } from '../../proto/base/tls.ts';
import { toHelsError } from '../../proto/domain/errors.ts';
import { parseAddresses } from '../../proto/domain/host-port.ts';
import { HelsClient, HelsError } from '../sdk/index.ts';
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

const connectionOptions = ['address', 'tlsCa', 'tlsCert', 'tlsKey'] as const;

/** For what calls no controller: throws usage for an option that says which one to call. Variables of the environment are for other commands. */
export function refuseConnection(command: Command): void {
  const given = connectionOptions.find(
    (name) => command.getOptionValueSourceWithGlobals(name) === 'cli',
  );
  if (given === undefined) return;
  const option = given.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  throw new HelsError('usage', `--${option}: this command calls no controller; leave it out`);
}

/** A command, with those below it, that calls no controller. To be called before those below are added. */
export function localCommand(command: Command): Command {
  const isConnection = (option: Option) =>
    connectionOptions.some((name) => name === option.attributeName());
  const help = Object.assign(new Help(), { showGlobalOptions: true });
  return command
    .hook('preAction', (_, called) => refuseConnection(called))
    .configureHelp({
      showGlobalOptions: true,
      visibleGlobalOptions: (shown) =>
        help.visibleGlobalOptions(shown).filter((option) => !isConnection(option)),
    });
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

/** Throws usage for an option that is no list of addresses, config-invalid for such a variable. */
function addressOf(command: Command): string {
  const { address } = globalOptions(command);
  if (command.getOptionValueSourceWithGlobals('address') !== 'cli') {
    parseAddresses(address, 'HELS_ADDRESS');
    return address;
  }
  const field = '--address';
  try {
    parseAddresses(address, field);
  } catch (error) {
    throw new HelsError('usage', toHelsError(error).message, { field });
  }
  return address;
}

/** Runs `use` with a client of the addressed controller and closes it afterwards. */
export async function withClient<T>(
  command: Command,
  use: (client: HelsClient) => Promise<T>,
): Promise<T> {
  const tls = tlsOf(globalOptions(command));
  const client = new HelsClient({ address: addressOf(command), ...tls });
  try {
    return await use(client);
  } finally {
    client.close();
  }
}
