/** Is the profile true? Errors of the fitted decode lines on loads that took no part in the fit, and of whole steps while serving. */
import { credentials } from '@grpc/grpc-js';
import type { PlanReport } from '../../client/sdk/index.ts';
import { smallestSizes } from '../../controller/deployment/engine-sizes.ts';
import type { GroupWorker } from '../../controller/deployment/group-worker.ts';
import { profileWorkers } from '../../controller/deployment/profile-workers.ts';
import { WorkerClient } from '../../controller/deployment/worker-client.ts';
import { type LoadPoint, predictSeconds } from '../../controller/profiler/latency-terms.ts';
import { readModelFiles } from '../../proto/base/model-files.ts';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { LatencyLine } from '../../proto/domain/plan.ts';
import { atMost, type Benchmark, type Goal } from './benchmark.ts';
import { type BenchCluster, type BenchWorker, withCluster } from './cluster.ts';
import { randomModel, shape110M } from './random-model.ts';
import { median, quantile } from './statistics.ts';

const workers: BenchWorker[] = [
  { device: 'cpu?threads=1', core: 0 },
  { device: 'cpu?threads=1&speed=0.33', core: 1 },
];

/** Batch sizes, contexts and splits that profile-grid.ts does not measure. */
const batches = [1, 3, 6, 12, 24, 48];
const contexts = [70, 220, 600];
const splits = [
  { heads: 1, columns: 0.875 },
  { heads: 1 / 3, columns: 0.4375 },
  { heads: 2 / 3, columns: 0.5625 },
  { heads: 5 / 6, columns: 0.3125 },
];
const buckets = [
  { name: '1', low: 1, high: 1 },
  { name: '2-8', low: 2, high: 8 },
  { name: '9-32', low: 9, high: 32 },
  { name: '33-64', low: 33, high: 64 },
];
/** Of a profile, its held-out loads and the steps, one after the other: the host's speed changes within minutes, between a profile and its loads too. */
const passCount = 3;
/** Of the held-out loads. */
const roundsMax = 5;
const budgetMs = 20_000;
const medianPercentMax = 10;
const percentile95Max = 25;

function heldOutLoads(model: ModelSpec): LoadPoint[] {
  return batches.flatMap((tokens) =>
    contexts.flatMap((context) =>
      splits.map(({ heads, columns }) => ({
        prefill: false,
        tokens,
        contextTokens: tokens * context,
        headGroups: Math.round(heads * model.headGroups),
        ffnColumns: Math.round((columns * model.ffnColumns) / model.ffnGranule) * model.ffnGranule,
        vocabRows: Math.round(heads * model.vocabRows),
      })),
    ),
  );
}

const percent = (predicted: number, measured: number) =>
  (100 * Math.abs(predicted - measured)) / measured;

async function groupWorkers(cluster: BenchCluster): Promise<GroupWorker[]> {
  const status = await cluster.cluster.client.status();
  return status.workers
    .map(({ workerId, incarnation, address, device }) => {
      if (device === null) throw new Error(`${workerId} has no device`);
      const client = new WorkerClient(address, credentials.createInsecure(), () => Date.now());
      return { id: workerId, incarnation, address, device, client };
    })
    .sort((left, right) => left.id.localeCompare(right.id));
}

interface HeldOut {
  worker: string;
  lines: readonly LatencyLine[];
  loads: LoadPoint[];
  seconds: number[];
}

async function measureHeldOut(cluster: BenchCluster, model: ModelSpec): Promise<HeldOut[]> {
  const group = await groupWorkers(cluster);
  const { term, epoch } = await cluster.cluster.client.status();
  const fence = { term, epoch };
  const options = { model, ...smallestSizes, fence, refresh: true };
  // Nothing is kept: the benchmark is about what is measured now.
  const store = { loadMeasurement: async () => null, saveMeasurement: async () => undefined };
  const ports = { store, nowMs: () => performance.now(), unixMs: () => Date.now() };
  const runs = await profileWorkers(group, options, ports, () => undefined);
  const results: HeldOut[] = [];
  for (const { id, client } of group) {
    const loads = heldOutLoads(model);
    const measured = await client.profile(
      { fence, model, points: loads, roundsMax, budgetMs },
      budgetMs + 60_000,
      () => undefined,
    );
    client.close();
    const seconds = loads.map((_, index) => measured.seconds.get(index) ?? Number.NaN);
    results.push({ worker: id, lines: runs.get(id)?.fit.decode ?? [], loads, seconds });
  }
  return results;
}

function errorRows(heldOut: readonly HeldOut[]) {
  return heldOut.flatMap(({ worker, lines, loads, seconds }) =>
    buckets.map(({ name, low, high }) => {
      const errors = loads.flatMap((load, index) =>
        load.tokens >= low && load.tokens <= high
          ? [percent(predictSeconds(lines, load), seconds[index] as number)]
          : [],
      );
      return {
        worker,
        'batch size': name,
        loads: errors.length,
        'median %': median(errors),
        'P95 %': quantile(errors, 0.95),
        lines: lines.length,
      };
    }),
  );
}

function stepRow(batch: number, report: PlanReport) {
  const { predictedDecodeSeconds: predicted, measuredDecodeSeconds: measured } = report;
  const slowest = Math.max(...report.ranks.map((rank) => rank.measuredDecodeSeconds));
  return {
    'batch size': batch,
    ranks: report.ranks.length,
    'predicted ms': 1000 * predicted,
    'measured ms': 1000 * measured,
    'error %': percent(predicted, measured),
    'slowest rank computes ms': 1000 * slowest,
    'worst rank error %': Math.max(
      ...report.ranks.map((rank) =>
        percent(rank.predictedDecodeSeconds, rank.measuredDecodeSeconds),
      ),
    ),
  };
}

/** Figures as the median of the passes; rows of all passes are in one order. */
function mediansOf<Row extends Record<string, string | number>>(passes: readonly Row[][]): Row[] {
  const [first = []] = passes;
  return first.map((row, index) => {
    const entries = Object.entries(row).map(([name, value]) => {
      const values = passes.map((rows) => (rows[index] as Row)[name] as number);
      return [name, typeof value === 'number' ? median(values) : value];
    });
    return Object.fromEntries(entries) as Row;
  });
}

/** Each deployment plans with the lines that were measured last. */
async function measureSteps(cluster: BenchCluster, modelPath: string) {
  for await (const _ of cluster.cluster.client.profile({ modelPath, refresh: true }));
  const rows: ReturnType<typeof stepRow>[] = [];
  for (const sequences of [1, 3, 6, 12, 24]) {
    const workload = { sequences, contextTokens: 128, outputTokens: 64 };
    const options = { modelPath, workersMin: workers.length, workload };
    rows.push(stepRow(sequences, await cluster.deploy(options)));
  }
  await cluster.cluster.client.undeploy(shape110M.name);
  return rows;
}

function goalsOf(rows: ReturnType<typeof errorRows>): Goal[] {
  return rows.flatMap((row) => {
    const where = `${row.worker}, batch ${row['batch size']}`;
    return [
      atMost(`${where}: median error %`, row['median %'], medianPercentMax),
      atMost(`${where}: 95th percentile error %`, row['P95 %'], percentile95Max),
    ];
  });
}

export const prediction: Benchmark = {
  name: 'prediction',
  summary: 'errors of the fitted decode lines on held-out loads, and of whole steps',
  async run(log) {
    const modelPath = await randomModel(shape110M);
    const { config } = await readModelFiles(modelPath);
    return await withCluster(workers, 1, async (cluster) => {
      const passes: {
        kernels: ReturnType<typeof errorRows>;
        steps: ReturnType<typeof stepRow>[];
      }[] = [];
      for (let pass = 0; pass < passCount; pass += 1) {
        log(`pass ${pass + 1}: profiling, held-out loads, steps`);
        const kernels = errorRows(await measureHeldOut(cluster, modelSpecFromConfig(config)));
        passes.push({ kernels, steps: await measureSteps(cluster, modelPath) });
      }
      const kernels = mediansOf(passes.map((pass) => pass.kernels));
      const steps = mediansOf(passes.map((pass) => pass.steps));
      return {
        tables: [
          {
            title: 'decode kernels of one worker: held-out batch sizes, contexts, splits',
            rows: kernels,
          },
          { title: 'whole decode steps while serving, policy hels', rows: steps },
        ],
        goals: goalsOf(kernels),
        notes: [
          `medians of ${passCount} passes, each with a profile of its own`,
          'model random-110m in bf16; worker-0 at full speed on core 0, worker-1 slowed to 0.33 on core 1 with the controller',
          'a whole step has collectives and waiting between layers, which the lines of one worker do not',
        ],
      };
    });
  },
};
