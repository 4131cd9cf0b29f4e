/** The worker's command line and environment (HELS_WORKER_*, for systemd) -> checked configuration. Pure. */
import { Command, CommanderError, Option } from 'commander';
import { type LogLevel, logLevels } from '../../proto/base/log.ts';
import { allOrNone, type TlsFiles } from '../../proto/base/tls.ts';
import { type DeviceOption, parseDeviceOption } from '../../proto/domain/device.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import {
  type HostPort,
  isLoopback,
  parseAddresses,
  parseHostPort,
  showHostPort,
} from '../../proto/domain/host-port.ts';

export interface WorkerConfig {
  id: string;
  /** host:port of the controllers' gRPC, in the order in which they are tried. */
  controllers: string[];
  listen: HostPort;
  /** Host under which the controller and the other ranks reach this worker. */
  advertise: string;
  device: DeviceOption;
  /** Of the worker's port and for dialling the controller; null: plain text. */
  tls: TlsFiles | null;
  logLevel: LogLevel;
}

interface RawOptions {
  id: string;
  controller: string;
  listen: string;
  advertise?: string;
  device: string;
  tlsCa?: string;
  tlsCert?: string;
  tlsKey?: string;
  logLevel: LogLevel;
  insecure: boolean;
}

function option(flags: string, description: string, environment: string): Option {
  return new Option(flags, description).env(`HELS_WORKER_${environment}`);
}

export function workerCommand(version: string): Command {
  return new Command('hels-worker')
    .description('one device of a Hels cluster: registers with the controller and runs its shard')
    .version(version)
    .addOption(
      option(
        '--id <name>',
        'name of this worker, unique in the cluster',
        'ID',
      ).makeOptionMandatory(),
    )
    .addOption(
      option(
        '--controller <host:port,...>',
        'gRPC address of the controller; of several, in the order in which they are tried',
        'CONTROLLER',
      ).default('127.0.0.1:7070'),
    )
    .addOption(
      option(
        '--listen <host:port>',
        'address of the worker service; port 0 = any free one',
        'LISTEN',
      ).default('127.0.0.1:0'),
    )
    .addOption(
      option(
        '--advertise <host>',
        'host under which others reach this worker (default: the host of --listen)',
        'ADVERTISE',
      ),
    )
    .addOption(
      option(
        '--device <device>',
        'cpu or cpu?threads=N&speed=S&memory=SIZE&host=SIZE; cuda:N or cuda:N?sm=N&memory=SIZE&host=SIZE',
        'DEVICE',
      ).default('cpu'),
    )
    .addOption(
      option('--tls-ca <file>', 'mutual TLS: authority of controller and clients (PEM)', 'TLS_CA'),
    )
    .addOption(
      option(
        '--tls-cert <file>',
        'certificate of this worker, as server and client (PEM)',
        'TLS_CERT',
      ),
    )
    .addOption(option('--tls-key <file>', 'key of --tls-cert (PEM)', 'TLS_KEY'))
    .addOption(
      option('--log-level <level>', 'how much to log', 'LOG_LEVEL')
        .choices(logLevels)
        .default('info'),
    )
    .addOption(
      option(
        '--insecure',
        'allow a listen address other than loopback without TLS',
        'INSECURE',
      ).default(false),
    )
    .addHelpText(
      'after',
      '\nEvery option may also be given as HELS_WORKER_<OPTION> in the environment.',
    )
    .exitOverride();
}

/** Parses `parameters` (without node and the script). Throws usage or config-invalid, or CommanderError for --help and --version. */
export function parseWorkerConfig(parameters: readonly string[], version: string): WorkerConfig {
  const command = workerCommand(version).configureOutput({ writeErr: () => undefined });
  try {
    command.parse([...parameters], { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode !== 0) {
      throw new HelsError('usage', error.message.replace(/^error: /, ''));
    }
    throw error;
  }
  const raw = command.opts<RawOptions>();
  // Without this, any value of a switch in the environment would mean yes.
  const fromEnvironment = command.getOptionValueSource('insecure') === 'env';
  const insecure = fromEnvironment
    ? parseSwitch(process.env, 'HELS_WORKER_INSECURE')
    : raw.insecure;
  return checkWorkerConfig({ ...raw, insecure });
}

function parseSwitch(environment: NodeJS.ProcessEnv, name: string): boolean {
  const text = environment[name] ?? '';
  if (/^(1|true|yes)$/i.test(text)) return true;
  if (/^(0|false|no|)$/i.test(text)) return false;
  throw invalid(name, text, 'write true or false');
}

function checkWorkerConfig(raw: RawOptions): WorkerConfig {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(raw.id)) {
    throw invalid('--id', raw.id, 'use 1 to 63 letters, digits, dots, dashes or underscores');
  }
  const listen = parseHostPort(raw.listen, '--listen');
  const tls = allOrNone({
    authority: { value: raw.tlsCa ?? null, field: '--tls-ca' },
    certificate: { value: raw.tlsCert ?? null, field: '--tls-cert' },
    key: { value: raw.tlsKey ?? null, field: '--tls-key' },
  });
  if (!isLoopback(listen.host) && !raw.insecure && tls === null) {
    throw invalid(
      '--listen',
      raw.listen,
      'it is not a loopback address and there are no --tls-ca, --tls-cert and --tls-key; keep 127.0.0.1, or add --insecure on a network you trust',
    );
  }
  if (isWildcard(listen.host) && raw.advertise === undefined) {
    throw invalid('--listen', raw.listen, 'others cannot dial it; say --advertise HOST too');
  }
  if (raw.advertise !== undefined) checkAdvertise(raw.advertise);
  return {
    id: raw.id,
    controllers: parseAddresses(raw.controller, '--controller'),
    listen,
    advertise: raw.advertise ?? listen.host,
    device: parseDeviceOption(raw.device),
    tls,
    logLevel: raw.logLevel,
  };
}

function checkAdvertise(host: string): void {
  const isIpv6 = /^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$/.test(host);
  if (isWildcard(host) || !(isIpv6 || /^[^\s:[\]/]+$/.test(host))) {
    throw invalid(
      '--advertise',
      host,
      'write a host name or address that others can dial, no port',
    );
  }
}

/** What is open to the network in plain text, for the log. */
export function plaintextWarnings({ listen, tls }: WorkerConfig): string[] {
  if (tls !== null || isLoopback(listen.host)) return [];
  return [
    `NO TLS: ${showHostPort(listen)} is open in plain text and asks nobody who they are: whoever reaches it can command this worker; give --tls-ca, --tls-cert and --tls-key`,
  ];
}

function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::';
}

function invalid(field: string, value: string, problem: string): HelsError {
  return new HelsError('config-invalid', `${field} is '${value}'; ${problem}`, { field });
}
