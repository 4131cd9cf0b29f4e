/** What a client of the OpenAI endpoint sees: one worker with both cores, and the demo's three unequal workers. */

import { statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { bundledModel } from '../support/daemons.ts';
import type { Benchmark } from './benchmark.ts';
import { type BenchWorker, withCluster } from './cluster.ts';
import { runLoad } from './load.ts';
import { randomModel, shape110M, weightBytesPerStep } from './random-model.ts';

const anywhere = (device: string): BenchWorker => ({ device, core: null });

const clusters = [
  { name: 'one worker, 2 threads', workers: [anywhere('cpu?threads=2')] },
  {
    name: 'three unequal workers',
    workers: [
      anywhere('cpu?threads=1'),
      anywhere('cpu?threads=1&speed=0.4'),
      anywhere('cpu?threads=1&memory=256MiB'),
    ],
  },
];
const streamCounts = [1, 8, 32];
const promptTokens = 64;
const outputTokens = 64;
const answersMin = 5;

interface Served {
  path: string;
  /** Weights that a decode step reads. */
  bytesPerStep: number;
}

async function models(): Promise<Served[]> {
  const bundledBytes = statSync(join(bundledModel, 'model.safetensors')).size;
  return [
    { path: bundledModel, bytesPerStep: bundledBytes },
    { path: await randomModel(shape110M), bytesPerStep: weightBytesPerStep(shape110M) },
  ];
}

export const serving: Benchmark = {
  name: 'serving',
  summary: 'TTFT, TPOT and throughput at 1, 8 and 32 streams through the OpenAI endpoint',
  async run(log) {
    const rows: Record<string, string | number>[] = [];
    for (const { path, bytesPerStep } of await models()) {
      const model = basename(path);
      for (const { name, workers } of clusters) {
        await withCluster(workers, null, async (cluster) => {
          const workload = {
            sequences: 8,
            contextTokens: promptTokens + outputTokens,
            outputTokens,
          };
          log(`${model} on ${name}`);
          const report = await cluster.deploy({
            modelPath: path,
            workersMin: workers.length,
            workload,
          });
          for (const streams of streamCounts) {
            const rounds = Math.ceil(answersMin / streams);
            const url = cluster.cluster.httpUrl;
            const result = await runLoad({
              url,
              model,
              streams,
              rounds,
              promptTokens,
              outputTokens,
            });
            rows.push({
              model,
              cluster: name,
              ranks: report.ranks.length,
              streams,
              'TTFT ms': 1000 * result.firstTokenSeconds,
              'TPOT ms': 1000 * result.perTokenSeconds,
              'tokens/s': result.tokensPerSecond,
              'MB read per step': bytesPerStep / 1e6,
            });
          }
        });
      }
    }
    return {
      tables: [
        { title: `prompt ${promptTokens} tokens, answer ${outputTokens} tokens, medians`, rows },
      ],
      goals: [],
      notes: [
        'the controller, the workers and the client share the cores of this machine',
        'the three workers share two cores and one of them is slowed to 0.4, so they have less to give than the one worker',
        'limit: a step takes at least the bytes it reads divided by the bandwidth printed above, per core that takes part',
      ],
    };
  },
};
