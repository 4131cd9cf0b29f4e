/**
 * The bundled model comes and goes on three daemons, again and again: each time an epoch with its collective, step streams, weights and
 * KV. Looks for what an epoch leaves behind: memory, descriptors, threads, shared memory.
 */
import { bundledModel, bundledModelId, collect } from '../support/daemons.ts';
import { atMost, type Benchmark } from './benchmark.ts';
import { type BenchCluster, withCluster } from './cluster.ts';
import { type GrowthBounds, MemoryWatch } from './memory.ts';

/** HELS_SOAK_CYCLES: how often it is deployed. */
const cycles = Number(process.env['HELS_SOAK_CYCLES'] ?? 50);
const warmUpCycles = Math.ceil(cycles / 5);
const growthBounds: GrowthBounds = {
  unit: 'deployment',
  unitWork: 1,
  // 20 plans of 2 KiB are kept, and V8 compiles more and more of what is used rarely: 17 to 18 KiB seen in the controller.
  liveKiBMax: 32,
  nativeMiBMax: 0.25,
};

/** Head groups by hand, so that every deployment has three ranks. */
const ranks = [4, 2, 2].map((headGroups, index) => ({
  workerId: `worker-${index}`,
  headGroups,
  ffnWeight: 1,
}));

/** Resolves to the tokens of one answer. */
async function deployAndAsk(cluster: BenchCluster): Promise<string> {
  const { client } = cluster.cluster;
  await cluster.deploy({ modelPath: bundledModel, workersMin: ranks.length, ranks });
  const { tokenIds } = await collect(
    client.generate({ prompt: 'Hels' }, { maxTokens: 16, ignoreEndOfText: true }),
  );
  await client.undeploy(bundledModelId);
  return tokenIds.join();
}

export const redeploy: Benchmark = {
  name: 'redeploy',
  summary: 'deployments that come and go on three daemons: memory, descriptors, threads',
  onlyByName: true,
  async run(log) {
    const devices = ranks.map(() => ({ device: 'cpu?threads=1', core: null }));
    return await MemoryWatch.during(async (watch) => {
      const answers = new Set<string>();
      await withCluster(devices, null, async (cluster) => {
        for (let cycle = 1; cycle <= cycles; cycle += 1) {
          answers.add(await deployAndAsk(cluster));
          await watch.sample(cluster.cluster.processIds, cycle);
          if (cycle % 10 === 0) log(`${cycle} deployments`);
        }
      });
      const memory = watch.findings(warmUpCycles, growthBounds);
      return {
        tables: memory.tables,
        goals: [atMost('different answers', answers.size, 1), ...memory.goals],
        notes: [`${cycles} deployments, the first ${warmUpCycles} of them warm-up`],
      };
    });
  },
};
