/**
 * A GPU through the daemons: what a client sees of one that serves alone, how well its steps were predicted, and the profiler's errors.
 * Needs a GPU (`helsctl doctor`); only when named.
 */
import type { PlanReport } from '../../client/sdk/index.ts';
import { cudaDevices } from '../../worker/binding/native.ts';
import { atMost, type Benchmark, type Findings, type Goal } from './benchmark.ts';
import { type BenchCluster, type BenchWorker, withCluster } from './cluster.ts';
import { runLoad } from './load.ts';
import { type ModelShape, randomModel, shape1100M, weightBytesPerStep } from './random-model.ts';

/** Llama-3-8B's layers, eight of them: products of the size that GPUs are bought for, and a file that is written in seconds. */
const shape8BLayers: ModelShape = {
  name: 'random-8b-of-8-layers',
  layers: 8,
  hiddenSize: 4096,
  queryHeads: 32,
  headGroups: 8,
  ffnColumns: 14_336,
  vocabRows: 32_000,
  positions: 8192,
  tiedEmbeddings: false,
};

const on = (...devices: string[]): BenchWorker[] =>
  devices.map((device) => ({ device, core: null }));

const streamCounts = [1, 16, 64];
const promptTokens = 128;
const outputTokens = 128;

function stepRow(model: string, numerics: string, report: PlanReport) {
  const { predictedDecodeSeconds, measuredDecodeSeconds } = report;
  return {
    model,
    numerics,
    sequences: report.measuredSequences,
    'predicted ms': 1000 * predictedDecodeSeconds,
    'measured ms': 1000 * measuredDecodeSeconds,
    'error %': 100 * Math.abs(predictedDecodeSeconds / measuredDecodeSeconds - 1),
    'load s': report.ranks[0]?.loadSeconds ?? 0,
  };
}

async function serve(cluster: BenchCluster, shape: ModelShape, numerics: 'exact' | 'fast') {
  const modelPath = await randomModel(shape);
  const workload = { sequences: 16, contextTokens: promptTokens + outputTokens, outputTokens };
  const report = await cluster.deploy({ modelPath, numerics, workload });
  const loads: Record<string, string | number>[] = [];
  for (const streams of streamCounts) {
    const result = await runLoad({
      url: cluster.cluster.httpUrl,
      model: shape.name,
      streams,
      rounds: streams === 1 ? 3 : 2,
      promptTokens,
      outputTokens,
    });
    loads.push({
      model: shape.name,
      numerics,
      streams,
      'TTFT ms': 1000 * result.firstTokenSeconds,
      'TPOT ms': 1000 * result.perTokenSeconds,
      'tokens/s': result.tokensPerSecond,
      'GB/s of weights': weightBytesPerStep(shape) / result.perTokenSeconds / 1e9,
    });
  }
  return { step: stepRow(shape.name, numerics, report), loads };
}

async function fitRows(cluster: BenchCluster) {
  const modelPath = await randomModel(shape8BLayers);
  for await (const event of cluster.cluster.client.profile({ modelPath, refresh: true })) {
    if (event.type !== 'ready') continue;
    const [worker] = event.report.workers;
    return (worker?.phases ?? []).flatMap((phase) =>
      phase.heldOut.map((bucket) => ({
        phase: phase.phase,
        tokens: bucket.tokens === 0 ? 'all' : bucket.tokens,
        'points held out': bucket.points,
        'mean %': bucket.meanPercent,
        'median %': bucket.medianPercent,
        'P95 %': bucket.percentile95Percent,
        'condition number': phase.conditionNumber,
        'profiled in s': worker?.seconds ?? 0,
      })),
    );
  }
  throw new Error('the profile ended without a result');
}

function predictionGoals(rows: readonly ReturnType<typeof stepRow>[]): Goal[] {
  return rows.map((row) =>
    atMost(`${row.model}, ${row.numerics}: error of the predicted step, %`, row['error %'], 10),
  );
}

export const gpu: Benchmark = {
  name: 'gpu',
  summary: 'one GPU through the daemons: TTFT, TPOT and throughput, predicted steps, the profile',
  onlyByName: true,
  async run(log): Promise<Findings> {
    const { devices, reason } = cudaDevices();
    const [device] = devices;
    if (device === undefined) throw new Error(`this benchmark needs a GPU: ${reason}`);
    const loads: Record<string, string | number>[] = [];
    const steps: ReturnType<typeof stepRow>[] = [];
    const fits = await withCluster(on('cuda:0'), null, async (cluster) => {
      for (const shape of [shape1100M, shape8BLayers]) {
        for (const numerics of ['exact', 'fast'] as const) {
          log(`${shape.name}, ${numerics}`);
          const served = await serve(cluster, shape, numerics);
          steps.push(served.step);
          loads.push(...served.loads);
        }
      }
      log('profile');
      return await fitRows(cluster);
    });
    return {
      tables: [
        { title: 'steps of the warm-up', rows: steps },
        { title: `served: prompt ${promptTokens}, answer ${outputTokens} tokens`, rows: loads },
        { title: 'fitted lines on points held out', rows: fits },
      ],
      goals: predictionGoals(steps),
      notes: [`${device.name}, ${device.multiprocessors} multiprocessors`],
    };
  },
};
