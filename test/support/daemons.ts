/** Real daemons for tests: the built programs as processes on loopback, with real sockets and real collectives. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LocalCluster } from '../../client/helsctl/local-cluster.ts';
import { LocalProcess } from '../../client/helsctl/local-process.ts';
import { programPath } from '../../client/helsctl/program-path.ts';
import type {
  DeployOptions,
  GenerateEvent,
  HelsClient,
  PlanReport,
} from '../../client/sdk/index.ts';
import { eventually } from './deadline.ts';
import { processesWith } from './processes.ts';

export const bundledModel = fileURLToPath(
  new URL('../../deploy/models/hels-tiny', import.meta.url),
);
export const bundledModelId = 'hels-tiny';

export function fixtureModel(name: string): string {
  return fileURLToPath(new URL(`../fixtures/goldens/${name}`, import.meta.url));
}

export interface TestCluster {
  cluster: LocalCluster;
  deploy(options?: Partial<DeployOptions>): Promise<PlanReport>;
  /** Starts a worker with the id and device of one that has ended; it is stopped with the cluster. */
  restartWorker(index: number): Promise<LocalProcess>;
  /** Process ids of the cluster's daemons that still run. */
  running(): number[];
  /** Throws when a daemon outlives it. */
  stop(): Promise<void>;
}

export async function startTestCluster(devices: string[]): Promise<TestCluster> {
  const dataDirectory = mkdtempSync(join(tmpdir(), 'hels-test-'));
  const cluster = await LocalCluster.start({
    devices,
    dataDirectory,
    http: '127.0.0.1:0',
    grpc: '127.0.0.1:0',
    logLevel: 'info',
  });
  // A worker listens before the controller has heard of it.
  await eventually(20_000, 'every worker registers', async () => {
    const { workers } = await cluster.client.status();
    return workers.length === devices.length;
  });
  const restarted: LocalProcess[] = [];
  const running = () => [
    ...processesWith(dataDirectory),
    ...processesWith(`--controller ${cluster.grpcAddress}`),
  ];
  return {
    cluster,
    running,
    async deploy(options = {}) {
      const request = { modelPath: bundledModel, workersMin: devices.length, ...options };
      for await (const event of cluster.client.deploy(request)) {
        if (event.type === 'ready') return event.report;
      }
      throw new Error('the deployment ended without a result');
    },
    async restartWorker(index) {
      const name = `worker-${index}`;
      const parameters = ['--id', name, '--controller', cluster.grpcAddress];
      const worker = new LocalProcess(
        name,
        programPath('worker/main'),
        [...parameters, '--device', devices[index] ?? 'cpu'],
        join(dataDirectory, `${name}-again.log`),
      );
      restarted.push(worker);
      await worker.listening(20_000);
      return worker;
    },
    async stop() {
      await cluster.stop();
      await Promise.all(restarted.map((worker) => worker.stop(15_000)));
      const left = running();
      rmSync(dataDirectory, { recursive: true, force: true });
      if (left.length > 0) throw new Error(`daemons outlived the cluster: ${left.join(', ')}`);
    },
  };
}

export interface Answer {
  text: string;
  tokenIds: number[];
  logprobs: number[];
  finished: GenerateEvent | null;
}

export async function collect(events: AsyncIterable<GenerateEvent>): Promise<Answer> {
  const answer: Answer = { text: '', tokenIds: [], logprobs: [], finished: null };
  for await (const event of events) {
    if (event.type === 'delta') {
      answer.text += event.text;
      answer.tokenIds.push(...event.tokenIds);
      answer.logprobs.push(...event.logprobs.map(({ logprob }) => logprob));
    }
    if (event.type === 'finished') answer.finished = event;
  }
  return answer;
}

/** Resolves when no request runs and no KV block is used. */
export async function idle(client: HelsClient): Promise<void> {
  await eventually(10_000, 'no request runs and no KV block is used', async () => {
    const status = await client.status();
    return status.requestsRunning === 0 && status.kvBlocksUsed === 0;
  });
}
