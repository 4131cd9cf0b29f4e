/** Real daemons for tests: the built programs as processes on loopback, with real sockets and real collectives. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LocalCluster } from '../../client/helsctl/local-cluster.ts';
import type { DeployOptions, PlanReport } from '../../client/sdk/index.ts';

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
  return {
    cluster,
    async deploy(options = {}) {
      const request = { modelPath: bundledModel, workersMin: devices.length, ...options };
      for await (const event of cluster.client.deploy(request)) {
        if (event.type === 'ready') return event.report;
      }
      throw new Error('the deployment ended without a result');
    },
    async stop() {
      await cluster.stop();
      rmSync(dataDirectory, { recursive: true, force: true });
    },
  };
}
