/** Real daemons for benchmarks: a controller and workers as processes on loopback, each held to one core where a benchmark says so. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LocalCluster } from '../../client/helsctl/local-cluster.ts';
import type { DeployOptions, PlanReport } from '../../client/sdk/index.ts';

export interface BenchWorker {
  /** As `hels-worker --device` takes it. */
  device: string;
  /** null: wherever the system puts it. */
  core: number | null;
}

/** Holds every thread of a process, and those it will start, to one core. */
export function pin(processId: number, core: number): void {
  execFileSync('taskset', ['--all-tasks', '--pid', '--cpu-list', String(core), String(processId)]);
}

export class BenchCluster {
  readonly cluster: LocalCluster;
  readonly #dataDirectory: string;

  private constructor(cluster: LocalCluster, dataDirectory: string) {
    this.cluster = cluster;
    this.#dataDirectory = dataDirectory;
  }

  /** `controllerCore` holds this process, the load's client, too; null: nobody is held. */
  static async start(
    workers: readonly BenchWorker[],
    controllerCore: number | null,
  ): Promise<BenchCluster> {
    const dataDirectory = mkdtempSync(join(tmpdir(), 'hels-bench-run-'));
    const cluster = await LocalCluster.start({
      devices: workers.map(({ device }) => device),
      dataDirectory,
      http: '127.0.0.1:0',
      grpc: '127.0.0.1:0',
      logLevel: 'info',
    });
    const { processIds } = cluster;
    if (controllerCore !== null) {
      pin(process.pid, controllerCore);
      pin(processIds.get('controller') ?? 0, controllerCore);
    }
    for (const [index, { core }] of workers.entries()) {
      if (core !== null) pin(processIds.get(`worker-${index}`) ?? 0, core);
    }
    return new BenchCluster(cluster, dataDirectory);
  }

  /** Resolves to the plan with the warm-up's measurements; throws what the deployment failed with. */
  async deploy(options: DeployOptions): Promise<PlanReport> {
    // What is measured is the plan that was asked for.
    for await (const event of this.cluster.client.deploy({ autoReplan: false, ...options })) {
      if (event.type === 'ready') return event.report;
    }
    throw new Error('the deployment ended without a result');
  }

  async stop(): Promise<void> {
    await this.cluster.stop();
    rmSync(this.#dataDirectory, { recursive: true, force: true });
  }
}

const stopSignals = ['SIGINT', 'SIGTERM'] as const;

/** A cluster for the time of `use`, stopped whatever happens. */
export async function withCluster<Result>(
  workers: readonly BenchWorker[],
  controllerCore: number | null,
  use: (cluster: BenchCluster) => Promise<Result>,
): Promise<Result> {
  const cluster = await BenchCluster.start(workers, controllerCore);
  // The daemons are in process groups of their own: whoever stops the benchmark does not reach them.
  const interrupt = () => {
    void cluster.stop().then(() => process.exit(1));
  };
  for (const signal of stopSignals) process.once(signal, interrupt);
  try {
    return await use(cluster);
  } finally {
    for (const signal of stopSignals) process.removeListener(signal, interrupt);
    await cluster.stop();
  }
}
