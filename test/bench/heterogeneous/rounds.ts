/** The rounds of `heterogeneous`: in each, every worker serves the whole model alone, then every split is deployed and loaded. */
import type { DeployOptions, PlanReport } from '../../../client/sdk/index.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import { type BenchCluster, type BenchWorker, withCluster } from '../cluster.ts';
import { type LoadResult, runLoad } from '../load.ts';
import { randomModel, shape110M } from '../random-model.ts';

export const speeds = [1, 0.33, 0.33];
export const memories = ['1GiB', '256MiB', '192MiB'];
export const policies = ['equal', 'memory', 'compute', 'stepwise', 'hels'] as const;
export type Policy = (typeof policies)[number];

export const promptTokens = 32;
export const outputTokens = 64;
const contextTokens = promptTokens + outputTokens;
/** Streams of the two TPOT columns. */
export const batches = [1, 8] as const;
/** Tried from above until the plan has room. */
const throughputBatches = [64, 48, 32, 24, 16, 8];
/** Of deploying and measuring everything. */
export const roundCount = 5;
/** Answers of a stream, one after another: a load takes some seconds at least. */
export const answers = 2;
export const byHand = 'by hand, proportional to the speeds';

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

async function measureSplit(cluster: BenchCluster, split: Split): Promise<Measured> {
  return { ...(await measureSpeeds(cluster, split)), ...(await measureThroughput(cluster, split)) };
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

export interface Round {
  /** Seconds per token of each worker alone, by worker and batch. */
  solo: number[][];
  splits: Map<string, Measured>;
}

/** Each round begins with another split: what comes after a long load is disturbed more. */
function inTurn<Item>(items: readonly Item[], first: number): Item[] {
  const begin = first % items.length;
  return [...items.slice(begin), ...items.slice(0, begin)];
}

async function measureRounds(
  alone: BenchCluster,
  together: BenchCluster,
  modelPath: string,
  log: (line: string) => void,
): Promise<Round[]> {
  // Daemons that are new compile what they run: their first load takes twice the processor time a step.
  log('warming up');
  for (const cluster of [alone, together]) {
    await cluster.deploy({ modelPath, workersMin: 3, workload: workloadOf(8) });
    await loadOf(cluster, 8);
  }
  const splits = new Map<string, Split>(policies.map((policy) => [policy, { modelPath, policy }]));
  const rounds: Round[] = [];
  for (let index = 0; index < roundCount; index += 1) {
    log(`round ${index + 1} of ${roundCount}`);
    const solo = await measureSolo(alone, modelPath, log);
    if (index === 0) splits.set(byHand, { modelPath, ranks: proportionalRanks(solo) });
    const measured = new Map<string, Measured>();
    for (const [name, split] of inTurn([...splits], index)) {
      log(name);
      measured.set(name, await measureSplit(together, split));
    }
    rounds.push({ solo, splits: measured });
  }
  return rounds;
}

/** Alone the workers have memory for the whole model, and are other daemons; those that wait take no time. */
export async function heterogeneousRounds(log: (line: string) => void): Promise<Round[]> {
  const modelPath = await randomModel(shape110M);
  return withCluster(workersOf(false), 1, (alone) =>
    withCluster(workersOf(true), 1, (together) => measureRounds(alone, together, modelPath, log)),
  );
}
