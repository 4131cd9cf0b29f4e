import { mkdtempSync, rmSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Command, Option } from 'commander';
import { isLoopback, parseHostPort } from '../../../proto/domain/host-port.ts';
import { type HelsClient, HelsError, type PlanReport } from '../../sdk/index.ts';
import { type Context, localCommand, outputOf } from '../context.ts';
import { deployWithProgress } from '../deploy-progress.ts';
import { LocalCluster, type LocalClusterOptions } from '../local-cluster.ts';
import type { Output } from '../output.ts';
import { formatPlan } from '../plan-table.ts';
import { streamChat } from '../stream-chat.ts';

/** Unequal on purpose: one at full speed, one slowed down, one with less room; none holds the bundled model and its KV alone. */
const demoDevices = [
  'cpu?threads=1&memory=22MiB',
  'cpu?threads=1&speed=0.4&memory=22MiB',
  'cpu?threads=1&memory=20MiB',
];
/** For any other model: as unequal in speed, with all of the machine's memory. */
const unequalDevices = ['cpu?threads=1', 'cpu?threads=1&speed=0.4', 'cpu?threads=1'];
const demoQuestion = 'What is Hels?';

interface UpOptions {
  model: string;
  device?: string[];
  http: string;
  grpc: string;
  dataDir: string;
  logLevel: string;
}

function bundledModel(): string {
  // dist/client/helsctl/commands -> the package root.
  return fileURLToPath(new URL('../../../../deploy/models/hels-tiny', import.meta.url));
}

function devicesFor(model: string): string[] {
  return resolve(model) === bundledModel() ? demoDevices : unequalDevices;
}

async function deployLocal(
  client: HelsClient,
  model: string,
  workers: number,
  output: Output,
  signal: AbortSignal,
): Promise<PlanReport> {
  const options = { modelPath: resolve(model), workersMin: workers, workersTimeoutMs: 30_000 };
  return await deployWithProgress(client, options, output, signal);
}

/** Starts a local cluster, runs `use`, and stops every process whatever happens. */
async function withLocalCluster(
  options: LocalClusterOptions,
  output: Output,
  use: (cluster: LocalCluster) => Promise<void>,
): Promise<void> {
  output.progress(`starting    on loopback: one controller, ${options.devices.length} worker(s)`);
  const cluster = await LocalCluster.start(options);
  try {
    const died = cluster.firstExit().then((process) => {
      throw new HelsError(
        'worker-lost',
        `${process.name} ended by itself; the end of its log:\n${process.logTail()}`,
      );
    });
    await Promise.race([use(cluster), died]);
  } finally {
    output.progress('stopping    controller and workers');
    await cluster.stop();
  }
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    if (signal.aborted) done();
    signal.addEventListener('abort', () => done(), { once: true });
  });
}

/** Throws config-invalid for an address that the daemons would refuse. */
function checkListen(address: string, option: string): void {
  if (isLoopback(parseHostPort(address, option).host)) return;
  throw new HelsError(
    'config-invalid',
    `${option} is '${address}'; it is not a loopback address, and helsctl up serves this machine alone: keep 127.0.0.1, or install the daemons (docs/operating.md)`,
    { field: option },
  );
}

async function runUp(options: UpOptions, output: Output, signal: AbortSignal): Promise<void> {
  checkListen(options.http, '--http');
  checkListen(options.grpc, '--grpc');
  const devices = options.device ?? devicesFor(options.model);
  const local = { ...options, devices, dataDirectory: options.dataDir };
  await withLocalCluster(local, output, async (cluster) => {
    const report = await deployLocal(cluster.client, options.model, devices.length, output, signal);
    const urls = {
      http: `${cluster.httpUrl}/v1`,
      dashboard: cluster.httpUrl,
      grpc: cluster.grpcAddress,
    };
    output.result({ ...urls, report }, () => formatPlan(report));
    output.note(
      `\nOpenAI API  ${urls.http}\ndashboard   ${urls.dashboard}\ngRPC        ${urls.grpc}`,
    );
    output.note(`logs        ${cluster.logDirectory}\nCtrl-C stops everything`);
    await untilAborted(signal);
  });
}

async function runDemo(model: string, output: Output, signal: AbortSignal): Promise<void> {
  const dataDirectory = mkdtempSync(join(tmpdir(), 'hels-demo-'));
  const devices = devicesFor(model);
  const local = {
    devices,
    dataDirectory,
    http: '127.0.0.1:0',
    grpc: '127.0.0.1:0',
    logLevel: 'info',
  };
  try {
    await withLocalCluster(local, output, async (cluster) => {
      const report = await deployLocal(cluster.client, model, devices.length, output, signal);
      output.note(`\n${demoQuestion}`);
      const chat = await streamChat(
        cluster.httpUrl,
        report.plan?.modelId ?? '',
        demoQuestion,
        signal,
        (text) => {
          if (!output.json) output.write(text);
        },
      );
      const current = await cluster.client.plan();
      output.result({ chat, report: current }, () => `\n\n${formatPlan(current)}`);
      output.note(
        `${report.ranks.length} workers answered together: ${chat.completionTokens} tokens, ` +
          `TTFT ${(chat.ttftSeconds * 1000).toFixed(1)} ms, TPOT ${(chat.tpotSeconds * 1000).toFixed(1)} ms`,
      );
    });
  } finally {
    rmSync(dataDirectory, { recursive: true, force: true });
  }
}

function modelOption(): Option {
  return new Option('--model <dir>', 'model directory').default(
    bundledModel(),
    'the bundled model',
  );
}

export function addUpCommands(program: Command, context: Context): void {
  const state = process.env['XDG_STATE_HOME'] ?? join(homedir(), '.local', 'state');
  localCommand(program.command('up'))
    .description('start a controller and workers on this machine, serve a model, stay until Ctrl-C')
    .addOption(modelOption())
    .option(
      '--device <device>',
      'one worker each, repeatable: cpu?threads=N&speed=S&memory=SIZE&host=SIZE or cuda:N?sm=N&memory=SIZE&host=SIZE (default: three unequal CPU workers)',
      (value: string, all: string[] = []) => [...all, value],
    )
    .option('--http <host:port>', 'where the OpenAI API listens', '127.0.0.1:8080')
    .option('--grpc <host:port>', 'where the controller listens', '127.0.0.1:7070')
    .option('--data-dir <dir>', 'state and logs', join(state, 'hels'))
    .option('--log-level <level>', 'error, warn, info or debug', 'info')
    .action((options: UpOptions, command: Command) =>
      runUp(options, outputOf(context, command), context.signal),
    );
  localCommand(program.command('demo'))
    .description('three unequal workers answer one question together, then everything stops')
    .addOption(modelOption())
    .action((options: { model: string }, command: Command) =>
      runDemo(options.model, outputOf(context, command), context.signal),
    );
}
