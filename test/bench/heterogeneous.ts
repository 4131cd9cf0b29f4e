/**
 * One model over three unequal workers, every policy in one run. The fast worker has core 0; the two slow ones, the controller and the
 * client share core 1. Ideal figures come from each worker's speed alone, measured first, and from nothing else.
 */
import type { DeployOptions, PlanReport } from '../../client/sdk/index.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import { atLeast, type Benchmark } from './benchmark.ts';
import { type BenchCluster, type BenchWorker, withCluster } from './cluster.ts';
import { type LoadResult, runLoad } from './load.ts';
import { randomModel, shape110M } from './random-model.ts';
import { median } from './statistics.ts';

const speeds = [1, 0.33, 0.33];
const memories = ['1GiB', '256MiB', '192MiB'];
const policies = ['equal', 'memory', 'compute', 'stepwise', 'hels'] as const;
type Policy = (typeof policies)[number];

const promptTokens = 32;
const outputTokens = 64;
const contextTokens = promptTokens + outputTokens;
/** Streams of the two TPOT columns. */
const batches = [1, 8] as const;
/** Tried from above until the plan has room. */
const throughputBatches = [64, 48, 32, 24, 16, 8];
const idealShare = 0.8;
/** Of deploying and measuring everything. */
const rounds = 5;
/** Answers of a stream, one after another: a load takes some seconds at least. */
const answers = 2;
/** Two loads of one plan differ by so much here: a policy that is within it is as good. */
const noise = 0.05;
const byHand = 'by hand, proportional to the speeds';

function workersOf(withMemory: boolean): BenchWorker[] {
  return speeds.map((speed, index) => ({
    device: `cpu?threads=1&speed=${speed}${withMemory ? `&memory=${memories[index]}` : ''}`,
    core: index === 0 ? 0 : 1,
  }));
}

function loadOf(cluster: BenchCluster, streams: number): Promise<LoadResult> {
  return runLoad({
    url: cluster.cluster.httpUrl,
    model: shape110M.name,
    streams,
    rounds: streams > Math.max(...batches) ? 1 : answers,
    promptTokens,
    outputTokens,
  });
}

const workloadOf = (sequences: number) => ({ sequences, contextTokens, outputTokens });

/** Seconds per token of each worker alone with the whole model, by batch. */
async function measureSolo(
  cluster: BenchCluster,
  modelPath: string,
  log: (line: string) => void,
): Promise<number[][]> {
  const solo: number[][] = [];
  for (const index of speeds.keys()) {
    const workerId = `worker-${index}`;
    log(`${workerId} alone`);
    const ranks = [{ workerId, headGroups: shape110M.headGroups, ffnWeight: 1 }];
    await cluster.deploy({ modelPath, workersMin: 3, workload: workloadOf(8), ranks });
    const seconds: number[] = [];
    for (const streams of batches) seconds.push((await loadOf(cluster, streams)).perTokenSeconds);
    solo.push(seconds);
  }
  return solo;
}

interface Measured {
  /** By batch: a plan is made for the load it serves. */
  reports: PlanReport[];
  perTokenSeconds: number[];
  largestBatch: number;
  tokensPerSecond: number;
}

async function deployOrNull(cluster: BenchCluster, options: DeployOptions) {
  try {
    return await cluster.deploy(options);
  } catch (error) {
    if (error instanceof HelsError && error.code === 'plan-infeasible') return null;
    throw error;
  }
}

type Split = Pick<DeployOptions, 'modelPath' | 'policy' | 'ranks'>;

/** Seconds per token at each batch, and the plans, each made for its batch, that gave them. */
async function measureSpeeds(cluster: BenchCluster, split: Split) {
  const reports: PlanReport[] = [];
  const perTokenSeconds: number[] = [];
  for (const streams of batches) {
    const options = { ...split, workersMin: 3, workload: workloadOf(streams) };
    reports.push(await cluster.deploy(options));
    perTokenSeconds.push((await loadOf(cluster, streams)).perTokenSeconds);
  }
  return { reports, perTokenSeconds };
}

async function measureThroughput(cluster: BenchCluster, split: Split) {
  for (const largestBatch of throughputBatches) {
    const options = { ...split, workersMin: 3, workload: workloadOf(largestBatch) };
    if ((await deployOrNull(cluster, options)) === null) continue;
    const { tokensPerSecond } = await loadOf(cluster, largestBatch);
    return { largestBatch, tokensPerSecond };
  }
  throw new Error('no batch fits');
}

const mediansOf = (rounds: readonly number[][]) =>
  batches.map((_, column) => median(rounds.map((row) => row[column] ?? Number.NaN)));

interface Compared {
  /** By worker and batch. */
  solo: number[][];
  measured: Map<string, Measured>;
}

async function measureSplit(cluster: BenchCluster, split: Split): Promise<Measured> {
  return { ...(await measureSpeeds(cluster, split)), ...(await measureThroughput(cluster, split)) };
}

/** The plans of the last round. */
function mediansOfRounds(rounds: readonly Measured[]): Measured {
  const last = rounds.at(-1) as Measured;
  return {
    ...last,
    perTokenSeconds: mediansOf(rounds.map(({ perTokenSeconds }) => perTokenSeconds)),
    tokensPerSecond: median(rounds.map(({ tokensPerSecond }) => tokensPerSecond)),
  };
}

/**
 * Each worker alone, then all splits in turn, `rounds` times: what disturbs the machine for a while disturbs all of them. Medians.
 * Alone they have memory for the whole model, and are other daemons; those that wait take no time.
 */
async function compare(
  alone: BenchCluster,
  together: BenchCluster,
  modelPath: string,
  log: (line: string) => void,
): Promise<Compared> {
  const splits = new Map<string, Split>(policies.map((policy) => [policy, { modelPath, policy }]));
  const solos: number[][][] = [];
  const measured = new Map<string, Measured[]>();
  // Daemons that are new compile what they run: their first load takes twice the processor time a step.
  log('warming up');
  for (const cluster of [alone, together]) {
    await cluster.deploy({ modelPath, workersMin: 3, workload: workloadOf(8) });
    await loadOf(cluster, 8);
  }
  for (let round = 1; round <= rounds; round += 1) {
    log(`round ${round} of ${rounds}`);
    solos.push(await measureSolo(alone, modelPath, log));
    if (round === 1) splits.set(byHand, { modelPath, ranks: proportionalRanks(solos[0] ?? []) });
    for (const [name, split] of splits) {
      log(name);
      measured.set(name, [...(measured.get(name) ?? []), await measureSplit(together, split)]);
    }
  }
  const solo = speeds.map((_, worker) => mediansOf(solos.map((round) => round[worker] ?? [])));
  const medians = [...measured].map(([name, all]) => [name, mediansOfRounds(all)] as const);
  return { solo, measured: new Map(medians) };
}

const size = (range: { begin: number; end: number } | null) =>
  range === null ? 0 : range.end - range.begin;

type Part = 'headGroups' | 'ffnColumns' | 'vocabRows';

function shares(report: PlanReport | undefined, part: Part): string {
  return (report?.plan?.ranks ?? [])
    .map((rank) => `${rank.workerId.replace('worker-', '')}:${size(rank[part])}`)
    .join(' ');
}

function rowOf(split: string, { reports, perTokenSeconds }: Measured, column: number) {
  const report = reports[column];
  const compute = report?.ranks.map((rank) => rank.measuredDecodeSeconds) ?? [];
  return {
    split,
    heads: shares(report, 'headGroups'),
    'FFN columns': shares(report, 'ffnColumns'),
    'vocabulary rows': shares(report, 'vocabRows'),
    'TPOT ms': 1000 * (perTokenSeconds[column] ?? Number.NaN),
    'step ms: predicted': 1000 * (report?.predictedDecodeSeconds ?? Number.NaN),
    measured: 1000 * (report?.measuredDecodeSeconds ?? Number.NaN),
    // Well below the step: the ranks wait for each other between layers.
    'slowest rank computes': 1000 * Math.max(...compute),
  };
}

/** Split in proportion to the speeds alone, by hand: what the planner could have chosen. */
function proportionalRanks(solo: readonly number[][]) {
  const rates = solo.map((seconds) => 1 / (seconds[1] ?? 1));
  const total = rates.reduce((sum, rate) => sum + rate, 0);
  const exact = rates.map((rate) => (shape110M.headGroups * rate) / total);
  const counts = exact.map(Math.floor);
  const byRest = [...exact.keys()].sort(
    (left, right) => ((exact[right] ?? 0) % 1) - ((exact[left] ?? 0) % 1),
  );
  const lacking = shape110M.headGroups - counts.reduce((sum, count) => sum + count, 0);
  for (const index of byRest.slice(0, lacking)) counts[index] = (counts[index] ?? 0) + 1;
  return rates.map((rate, index) => ({
    workerId: `worker-${index}`,
    headGroups: counts[index] ?? 0,
    ffnWeight: rate,
  }));
}

export const heterogeneous: Benchmark = {
  name: 'heterogeneous',
  summary:
    'three unequal workers, every policy in one run, against the speeds of each worker alone',
  async run(log) {
    const modelPath = await randomModel(shape110M);
    const { solo, measured } = await withCluster(workersOf(false), 1, (alone) =>
      withCluster(workersOf(true), 1, (together) => compare(alone, together, modelPath, log)),
    );
    const tpot = (policy: Policy, column: number) =>
      measured.get(policy)?.perTokenSeconds[column] ?? Number.NaN;
    const others = policies.filter((policy) => policy !== 'hels');
    const gains = batches.map((streams, column) => {
      const rates = solo.map((seconds) => 1 / (seconds[column] ?? Number.NaN));
      const sum = rates.reduce((total, rate) => total + rate, 0);
      // Equal parts take as long as the slowest worker needs for its part; the ideal is all speeds added up.
      const ideal = sum / (speeds.length * Math.min(...rates));
      const gain = tpot('equal', column) / tpot('hels', column);
      const best = Math.min(...others.map((policy) => tpot(policy, column)));
      return {
        streams,
        gain,
        ideal,
        'gain / ideal': gain / ideal,
        'best other / hels': best / tpot('hels', column),
      };
    });
    const throughput = (policy: Policy) => measured.get(policy)?.tokensPerSecond ?? Number.NaN;
    const bestOther = Math.max(...others.map(throughput));
    return {
      tables: [
        {
          title: 'each worker alone with the whole model',
          rows: solo.map((seconds, index) => ({
            worker: `worker-${index}`,
            speed: speeds[index] ?? 0,
            'TPOT ms, 1': 1000 * (seconds[0] ?? 0),
            'TPOT ms, 8': 1000 * (seconds[1] ?? 0),
          })),
        },
        ...batches.map((streams, column) => ({
          title: `all three together, plans for ${streams} sequence${streams === 1 ? '' : 's'}`,
          rows: [...measured].map(([split, result]) => rowOf(split, result, column)),
        })),
        {
          title: 'all three together, plans for the largest batch that fits',
          rows: [...measured].map(([split, { largestBatch, tokensPerSecond }]) => ({
            split,
            'largest batch': largestBatch,
            'tokens/s there': tokensPerSecond,
          })),
        },
        { title: 'gain of hels over equal', rows: gains },
      ],
      goals: [
        ...gains.flatMap((row) => [
          atLeast(
            `gain over equal / ideal gain, ${row.streams} streams`,
            row['gain / ideal'],
            idealShare,
          ),
          atLeast(
            `TPOT of the best other policy / hels, ${row.streams} streams`,
            row['best other / hels'],
            1 - noise,
          ),
        ]),
        atLeast(
          'throughput of hels / best other policy',
          throughput('hels') / bestOther,
          1 - noise,
        ),
      ],
      notes: [
        'each TPOT with the plan that the policy makes for so many sequences; shares are those of the last round',
        `${shape110M.name} in bf16, prompt ${promptTokens}, answer ${outputTokens} tokens; memory ${memories.join(', ')}`,
        `medians of ${rounds} rounds over workers alone and all splits; TPOT of ${answers} answers a stream; two loads of one plan differ by ${100 * noise} % or more here`,
        'fast worker on core 0; slow workers, controller and client on core 1; slow-down by sleeping after each kernel',
      ],
    };
  },
};
