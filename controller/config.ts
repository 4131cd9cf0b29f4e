/** The controller's command line and configuration file -> checked configuration. Options of the command line win over the file. Pure. */
import { Command, CommanderError, Option } from 'commander';
import { type LogLevel, logLevels } from '../proto/base/log.ts';
import {
  allOrNone,
  type CertificateFiles,
  type FileSetting,
  type NamedFile,
  type TlsFiles,
} from '../proto/base/tls.ts';
import { HelsError } from '../proto/domain/errors.ts';
import {
  type HostPort,
  isLoopback,
  parseHostPort,
  showHostPort,
} from '../proto/domain/host-port.ts';
import { type ConfiguredDeployment, type FileConfig, parseConfigFile } from './config-file.ts';

export interface ControllerConfig {
  http: HostPort;
  grpc: HostPort;
  dataDirectory: string;
  /** Empty: the embedded file store. */
  etcd: string[];
  etcdTls: EtcdTlsFiles;
  /** Of the HTTP port; null: plain text. */
  httpTls: CertificateFiles | null;
  /** Of the gRPC port and for dialling the workers; null: plain text. */
  tls: TlsFiles | null;
  logLevel: LogLevel;
  apiKey: string | null;
  corsOrigins: string[];
  /** Deployed at start, unless the store remembers another one. */
  deployment: ConfiguredDeployment | null;
}

/** For endpoints with https. */
interface EtcdTlsFiles {
  /** null: the authorities that Node.js trusts. */
  authority: NamedFile | null;
  /** null: etcd asks for none. */
  client: CertificateFiles | null;
}

interface CommandOptions {
  http?: string;
  grpc?: string;
  dataDir?: string;
  config?: string;
  etcd?: string;
  etcdCa?: string;
  etcdCert?: string;
  etcdKey?: string;
  httpTlsCert?: string;
  httpTlsKey?: string;
  tlsCa?: string;
  tlsCert?: string;
  tlsKey?: string;
  insecure?: boolean;
  logLevel?: LogLevel;
  apiKey?: string;
}

export function controllerCommand(version: string): Command {
  return new Command('hels-controller')
    .description(
      'decides: profiles the workers, plans the split, schedules every step, serves the APIs',
    )
    .version(version)
    .option('--http <host:port>', 'where the OpenAI API listens (default 127.0.0.1:8080)')
    .option('--http-tls-cert <file>', 'HTTPS: certificate of the OpenAI API (PEM)')
    .option('--http-tls-key <file>', 'key of --http-tls-cert (PEM)')
    .option('--grpc <host:port>', 'where workers and clients connect (default 127.0.0.1:7070)')
    .option('--data-dir <dir>', 'where the embedded store keeps its state (default ./hels-data)')
    .option('--etcd <urls>', 'comma-separated etcd endpoints instead of the embedded store')
    .option('--etcd-ca <file>', 'authority that signed the certificates of https endpoints (PEM)')
    .option('--etcd-cert <file>', 'certificate to show to etcd (PEM)')
    .option('--etcd-key <file>', 'key of --etcd-cert (PEM)')
    .option('--tls-ca <file>', 'mutual TLS for gRPC: authority of workers and clients (PEM)')
    .option('--tls-cert <file>', 'certificate of this controller, as server and client (PEM)')
    .option('--tls-key <file>', 'key of --tls-cert (PEM)')
    .option('--config <file>', 'YAML file with the same settings and a deployment')
    .option('--insecure', 'allow listening on other than loopback addresses without TLS')
    .addOption(new Option('--log-level <level>', 'how much to log').choices(logLevels))
    .addOption(
      new Option('--api-key <key>', 'bearer token that HTTP clients must send').env('HELS_API_KEY'),
    )
    .exitOverride();
}

function invalid(field: string, value: string, problem: string): HelsError {
  return new HelsError('config-invalid', `${field} is '${value}'; ${problem}`, { field });
}

/** Throws usage or config-invalid, or CommanderError for --help and --version. `readFile` reads the file of --config. */
export function parseControllerConfig(
  parameters: readonly string[],
  version: string,
  readFile: (file: string) => string,
): ControllerConfig {
  const command = controllerCommand(version).configureOutput({ writeErr: () => undefined });
  try {
    command.parse([...parameters], { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode !== 0) {
      throw new HelsError('usage', error.message.replace(/^error: /, ''));
    }
    throw error;
  }
  const options = command.opts<CommandOptions>();
  const file = options.config === undefined ? {} : readConfig(options.config, readFile);
  return merge(options, file, options.config ?? '');
}

function readConfig(file: string, readFile: (file: string) => string): FileConfig {
  let text: string;
  try {
    text = readFile(file);
  } catch (error) {
    throw invalid('--config', file, `it cannot be read: ${String(error)}`);
  }
  return parseConfigFile(text, file);
}

/** What a setting is and where it was given: the option, or the file and its field. */
interface Setting<Value> {
  value: Value;
  field: string;
}

/** Settings that an option and a field of the file give under the same name. */
type TextName = Exclude<keyof FileConfig & keyof CommandOptions, 'etcd' | 'insecure' | 'logLevel'>;

function merge(options: CommandOptions, config: FileConfig, fileName: string): ControllerConfig {
  const text = (name: TextName): FileSetting => {
    const [given, inFile] = [options[name], config[name]];
    if (given === undefined && inFile !== undefined)
      return { value: inFile, field: `${fileName}: ${name}` };
    const option = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    return { value: given ?? null, field: `--${option}` };
  };
  const insecure = options.insecure ?? config.insecure ?? false;
  const tls = allOrNone({
    authority: text('tlsCa'),
    certificate: text('tlsCert'),
    key: text('tlsKey'),
  });
  const httpTls = allOrNone({ certificate: text('httpTlsCert'), key: text('httpTlsKey') });
  const etcd = parseEtcd(
    options.etcd === undefined && config.etcd !== undefined
      ? { value: config.etcd, field: `${fileName}: etcd` }
      : { value: options.etcd?.split(',') ?? [], field: '--etcd' },
  );
  return {
    http: parseListen(
      text('http'),
      '127.0.0.1:8080',
      insecure || httpTls !== null,
      'there are no --http-tls-cert and --http-tls-key',
    ),
    grpc: parseListen(
      text('grpc'),
      '127.0.0.1:7070',
      insecure || tls !== null,
      'there are no --tls-ca, --tls-cert and --tls-key',
    ),
    dataDirectory: text('dataDir').value ?? './hels-data',
    etcd,
    etcdTls: parseEtcdTls(etcd, text('etcdCa'), text('etcdCert'), text('etcdKey')),
    httpTls,
    tls,
    logLevel: options.logLevel ?? config.logLevel ?? 'info',
    apiKey: checkApiKey(text('apiKey')),
    corsOrigins: checkOrigins(config.corsOrigins ?? [], `${fileName}: corsOrigins`),
    deployment: config.deployment ?? null,
  };
}

function checkApiKey({ value, field }: FileSetting): string | null {
  if (value === null) return value;
  // The key itself stays out of the message.
  const refuse = (problem: string) =>
    new HelsError('config-invalid', `${field} has ${problem}`, { field });
  if (value.length < 8) throw refuse(`${value.length} characters; a key has 8 or more`);
  if (/^[!-~]([ -~]*[!-~])?$/.test(value)) return value;
  throw refuse(
    'characters that a header does not carry as they are; use letters, digits and signs of ASCII, with no space at either end',
  );
}

/** They are compared with what browsers say, letter by letter. */
function checkOrigins(origins: readonly string[], field: string): string[] {
  for (const origin of origins) {
    const isWeb = /^https?:/i.test(origin);
    // Pages from disk and in sandboxed frames have no origin but these.
    const isOpaque = origin === 'null' || origin === 'file://';
    const isGood = isWeb
      ? URL.canParse(origin) && new URL(origin).origin === origin
      : /^[a-z][a-z0-9+.-]*:\/\/[^/?#@\s*A-Z]+$/.test(origin);
    if (isGood || isOpaque) continue;
    throw invalid(
      field,
      origin,
      'write each origin as browsers do: https://HOST or https://HOST:PORT, in small letters, without a path, a slash at the end or the port that the scheme has anyway; there is no * for all',
    );
  }
  return [...origins];
}

function parseListen(
  { value, field }: FileSetting,
  fallback: string,
  open: boolean,
  closedBecause: string,
): HostPort {
  const text = value ?? fallback;
  const address = parseHostPort(text, field);
  if (isLoopback(address.host) || open) return address;
  throw invalid(
    field,
    text,
    `it is not a loopback address and ${closedBecause}; keep 127.0.0.1, or add --insecure on a network you trust`,
  );
}

/** What is open to the network in plain text, for the log. */
export function plaintextWarnings({
  http,
  httpTls,
  grpc,
  tls,
  apiKey,
}: ControllerConfig): string[] {
  const warnings: string[] = [];
  if (tls === null && !isLoopback(grpc.host)) {
    warnings.push(
      `NO TLS: gRPC listens on ${showHostPort(grpc)} in plain text and asks nobody who they are: whoever reaches it can deploy, ask and register workers; give --tls-ca, --tls-cert and --tls-key`,
    );
  }
  if (httpTls === null && !isLoopback(http.host)) {
    const open =
      apiKey === null ? ' and without an API key' : '; the API key can be read on the way';
    warnings.push(
      `NO TLS: HTTP listens on ${showHostPort(http)} in plain text${open}; give --http-tls-cert and --http-tls-key, or put a proxy with TLS in front of it`,
    );
  }
  if (httpTls !== null && !isLoopback(http.host) && apiKey === null) {
    warnings.push(
      `NO API KEY: whoever reaches ${showHostPort(http)} can ask; give --api-key, or put a proxy that checks in front of it`,
    );
  }
  return warnings;
}

function parseEtcd({ value, field }: Setting<string[]>): string[] {
  for (const url of value) {
    const port = Number(/^https?:\/\/(?:\[[0-9A-Fa-f:.]+\]|[^\s/:@]+):(\d{1,5})$/.exec(url)?.[1]);
    if (!(port >= 1 && port <= 65_535)) {
      throw invalid(field, url, 'write http://HOST:PORT or https://HOST:PORT, several with commas');
    }
  }
  return value;
}

function parseEtcdTls(
  endpoints: readonly string[],
  authority: FileSetting,
  certificate: FileSetting,
  key: FileSetting,
): EtcdTlsFiles {
  const given = [authority, certificate, key].find(({ value }) => value !== null);
  const plain = endpoints.find((url) => !url.startsWith('https:'));
  if (given !== undefined && (endpoints.length === 0 || plain !== undefined)) {
    const why = plain === undefined ? 'there is no --etcd' : `the endpoint ${plain} has no TLS`;
    throw invalid(given.field, given.value ?? '', `${why}; name endpoints with https://`);
  }
  const { value, field } = authority;
  return {
    authority: value === null ? null : { path: value, field },
    client: allOrNone({ certificate, key }),
  };
}
