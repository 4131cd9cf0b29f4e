/** A slow device never hurts: one fast worker alone against the plan that may also use one of 30 % speed. One core each. */
import type { PlanReport } from '../../client/sdk/index.ts';
import { bundledModel, bundledModelId } from '../support/daemons.ts';
import { atLeast, type Benchmark } from './benchmark.ts';
import { type BenchCluster, type BenchWorker, withCluster } from './cluster.ts';
import { runLoad } from './load.ts';
import { randomModel, shape110M, shape1100M } from './random-model.ts';
import { median } from './statistics.ts';

const slowSpeed = 0.3;
const workers: BenchWorker[] = [
  { device: 'cpu?threads=1', core: 0 },
  { device: `cpu?threads=1&speed=${slowSpeed}`, core: 1 },
];
const promptTokens = 16;
/** Of alone and together in turn: the host's speed changes by a third within minutes, for both alike. */
const roundCount = 3;
/** Two answers of the same speed differ by about this much here: a plan that leaves the slow device out is the fast one alone. */
const noise = 0.05;

interface Case {
  model: string;
  path: string;
  headGroups: number;
  outputTokens: number;
  /** Short ones need many for a median that holds: two loads of one plan differed by a half. */
  answers: number;
}

async function cases(): Promise<Case[]> {
  return [
    { model: bundledModelId, path: bundledModel, headGroups: 8, outputTokens: 96, answers: 15 },
    {
      model: shape110M.name,
      path: await randomModel(shape110M),
      headGroups: shape110M.headGroups,
      outputTokens: 48,
      answers: 3,
    },
    {
      model: shape1100M.name,
      path: await randomModel(shape1100M),
      headGroups: shape1100M.headGroups,
      outputTokens: 24,
      answers: 3,
    },
  ];
}

/** Seconds per token at one stream: the median of the answers. */
async function perToken(
  cluster: BenchCluster,
  { model, outputTokens, answers }: Case,
): Promise<number> {
  const url = cluster.cluster.httpUrl;
  const load = { url, model, streams: 1, rounds: 1, promptTokens, outputTokens };
  const seconds: number[] = [];
  for (let index = 0; index < answers; index += 1) {
    seconds.push((await runLoad(load)).perTokenSeconds);
  }
  return median(seconds);
}

function splitOf(report: PlanReport): string {
  const size = (range: { begin: number; end: number } | null) =>
    range === null ? 0 : range.end - range.begin;
  return (report.plan?.ranks ?? [])
    .map(({ workerId, headGroups, ffnColumns, vocabRows }) => {
      return `${workerId} ${size(headGroups)}/${size(ffnColumns)}/${size(vocabRows)}`;
    })
    .join(', ');
}

async function compare(cluster: BenchCluster, one: Case) {
  const workload = {
    sequences: 1,
    contextTokens: promptTokens + one.outputTokens,
    outputTokens: one.outputTokens,
  };
  const base = { modelPath: one.path, workersMin: workers.length, workload };
  const ranks = [{ workerId: 'worker-0', headGroups: one.headGroups, ffnWeight: 1 }];
  const rounds: { alone: number; together: number; report: PlanReport }[] = [];
  for (let round = 0; round < roundCount; round += 1) {
    await cluster.deploy({ ...base, ranks });
    const alone = await perToken(cluster, one);
    const report = await cluster.deploy({ ...base, policy: 'hels' });
    rounds.push({ alone, together: await perToken(cluster, one), report });
  }
  const reports = rounds.map(({ report }) => report);
  const several = reports.some((report) => report.ranks.length > 1);
  return {
    model: one.model,
    'fast alone, tokens/s': median(rounds.map(({ alone }) => 1 / alone)),
    'hels, tokens/s': median(rounds.map(({ together }) => 1 / together)),
    'hels / alone': median(rounds.map(({ alone, together }) => alone / together)),
    'ideal / alone': several ? 1 + slowSpeed : 1,
    'plans: heads/columns/rows': [...new Set(reports.map(splitOf))].join('; '),
    'step ms: predicted': 1000 * median(reports.map((report) => report.predictedDecodeSeconds)),
    measured: 1000 * median(reports.map((report) => report.measuredDecodeSeconds)),
  };
}

export const slowDevice: Benchmark = {
  name: 'slow-device',
  summary: 'one fast worker and one of 30 % speed against the fast one alone',
  async run(log) {
    return await withCluster(workers, 1, async (cluster) => {
      const rows: Awaited<ReturnType<typeof compare>>[] = [];
      for (const one of await cases()) {
        log(one.model);
        rows.push(await compare(cluster, one));
      }
      return {
        tables: [{ title: 'one stream', rows }],
        goals: rows.map((row) => {
          const bound = row['ideal / alone'] > 1 ? 1 : 1 - noise;
          return atLeast(
            `${row.model}: speed against the fast worker alone`,
            row['hels / alone'],
            bound,
          );
        }),
        notes: [
          'slow worker, controller and client share core 1; the fast worker has core 0',
          `medians of ${roundCount} rounds, ratios within a round`,
        ],
      };
    });
  },
};
