/** The controller's command line and YAML file -> checked configuration. Options of the command line win over the file. Pure. */
import { Command, CommanderError, Option } from 'commander';
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { type LogLevel, logLevels } from '../proto/base/log.ts';
import { HelsError } from '../proto/domain/errors.ts';
import { planPolicies } from '../proto/domain/plan.ts';

export interface HostPort {
  host: string;
  port: number;
}

export interface ControllerConfig {
  http: HostPort;
  grpc: HostPort;
  dataDirectory: string;
  /** Empty: the embedded file store. */
  etcd: string[];
  logLevel: LogLevel;
  apiKey: string | null;
  corsOrigins: string[];
  /** Deployed at start, unless the store remembers another one. */
  deployment: z.infer<typeof deploymentSchema> | null;
}

const deploymentSchema = z.strictObject({
  model: z.string().min(1),
  name: z.string().default(''),
  policy: z.enum(planPolicies).default('hels'),
  numerics: z.enum(['exact', 'fast']).default('exact'),
  workers: z.number().int().min(1).max(1024).default(1),
  prefixCache: z.boolean().default(true),
});

const fileSchema = z.strictObject({
  http: z.string().optional(),
  grpc: z.string().optional(),
  dataDir: z.string().min(1).optional(),
  etcd: z.array(z.string()).optional(),
  insecure: z.boolean().optional(),
  logLevel: z.enum(logLevels).optional(),
  apiKey: z.string().optional(),
  corsOrigins: z.array(z.string()).optional(),
  deployment: deploymentSchema.optional(),
});

/** The names a configuration file may use; for the check of the reference page. */
export const configFileFields: readonly string[] = Object.keys(fileSchema.shape);
export const deploymentFields: readonly string[] = Object.keys(deploymentSchema.shape);

type FileConfig = z.infer<typeof fileSchema>;

interface CommandOptions {
  http?: string;
  grpc?: string;
  dataDir?: string;
  config?: string;
  etcd?: string;
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
    .option('--grpc <host:port>', 'where workers and clients connect (default 127.0.0.1:7070)')
    .option('--data-dir <dir>', 'where the embedded store keeps its state (default ./hels-data)')
    .option('--etcd <urls>', 'comma-separated etcd endpoints instead of the embedded store')
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

/** Parses the YAML text of `file`; throws config-invalid naming file, field and what is allowed. */
function parseConfigFile(text: string, file: string): FileConfig {
  let value: unknown;
  try {
    value = parseYaml(text) ?? {};
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new HelsError('config-invalid', `${file} is not YAML: ${reason}`, { field: '--config' });
  }
  const result = fileSchema.safeParse(value);
  if (result.success) return result.data;
  const problems = result.error.issues.map(describeIssue);
  throw new HelsError('config-invalid', `${file}: ${problems.join('; ')}`, { field: '--config' });
}

function describeIssue(issue: z.core.$ZodIssue): string {
  const where = issue.path.length > 0 ? issue.path.join('.') : 'the file';
  if (issue.code !== 'unrecognized_keys') return `${where}: ${issue.message}`;
  const schema = issue.path[0] === 'deployment' ? deploymentSchema : fileSchema;
  const known = Object.keys(schema.shape).join(', ');
  return `${where}: ${issue.keys.map((key) => `'${key}'`).join(', ')} is not known; the fields are ${known}`;
}

/** `host:port` or `[v6]:port`; throws config-invalid naming `field`. */
function parseHostPort(text: string, field: string): HostPort {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^\s:[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || !(port <= 65_535)) {
    throw invalid(field, text, 'write HOST:PORT with a port from 0 (any free one) to 65535');
  }
  return { host, port };
}

export function showHostPort({ host, port }: HostPort): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
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

interface Setting<Value> {
  value: Value;
  /** The option, or the file and its field: where a mistake is to be corrected. */
  field: string;
}

function merge(options: CommandOptions, file: FileConfig, fileName: string): ControllerConfig {
  const pick = <Value>(
    option: string,
    given: Value | undefined,
    name: keyof FileConfig,
    inFile: Value | undefined,
    fallback: Value,
  ): Setting<Value> =>
    given === undefined && inFile !== undefined
      ? { value: inFile, field: `${fileName}: ${name}` }
      : { value: given ?? fallback, field: option };
  const insecure = options.insecure ?? file.insecure ?? false;
  const http = pick('--http', options.http, 'http', file.http, '127.0.0.1:8080');
  const grpc = pick('--grpc', options.grpc, 'grpc', file.grpc, '127.0.0.1:7070');
  const apiKey = pick('--api-key', options.apiKey, 'apiKey', file.apiKey, null);
  if (apiKey.value !== null && apiKey.value.length < 8) {
    // The key itself stays out of the message.
    throw new HelsError(
      'config-invalid',
      `${apiKey.field} has ${apiKey.value.length} characters; a key has 8 or more`,
      { field: apiKey.field },
    );
  }
  return {
    http: parseListen(http, insecure),
    grpc: parseListen(grpc, insecure),
    dataDirectory: options.dataDir ?? file.dataDir ?? './hels-data',
    etcd: parseEtcd(pick('--etcd', options.etcd?.split(','), 'etcd', file.etcd, [])),
    logLevel: options.logLevel ?? file.logLevel ?? 'info',
    apiKey: apiKey.value,
    corsOrigins: file.corsOrigins ?? [],
    deployment: file.deployment ?? null,
  };
}

function parseListen({ value, field }: Setting<string>, insecure: boolean): HostPort {
  const address = parseHostPort(value, field);
  if (isLoopback(address.host) || insecure) return address;
  throw invalid(
    field,
    value,
    'it is not a loopback address and the server has no TLS; keep 127.0.0.1, or add --insecure on a network you trust',
  );
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
