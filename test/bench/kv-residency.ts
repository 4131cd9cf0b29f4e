/**
 * What to do with KV that has no room: every policy on the same three daemons and the same heads, one of which has a fifth of the
 * others' memory. Closed loads whose peak demand is 1 to 3 times what the small rank holds.
 */
import { basename } from 'node:path';
import type { DeployOptions, PlanReport } from '../../client/sdk/index.ts';
import { atLeast, atMost, type Benchmark, type Goal, type Table } from './benchmark.ts';
import { type BenchCluster, withCluster } from './cluster.ts';
import { randomModel, shape110M } from './random-model.ts';
import { type ClosedLoadResult, runClosedLoad } from './residency/closed-load.ts';
import {
  difference,
  type KvCounters,
  type KvPeaks,
  readCounters,
  watchPeaks,
} from './residency/counters.ts';
import { peakDemandTokens, streamsFor } from './residency/demand.ts';
import {
  answerDivisor,
  firstRequest,
  hasTrace,
  promptDivisor,
  type TracedRequest,
  tracePath,
  traceSlice,
} from './residency/trace-slice.ts';

const policies = {
  'a pinned': { kvPolicy: 'slots' },
  'b whole replay': { kvPolicy: 'replay' },
  'd conservative': { kvPolicy: 'reserve' },
  'c evict, restore': { kvPolicy: 'evict' },
  'e remote attention': { kvPolicy: 'evict', workload: { allowRemoteKv: true } },
} as const satisfies Record<string, Pick<DeployOptions, 'kvPolicy' | 'workload'>>;
type PolicyName = keyof typeof policies;

const baselines: readonly PolicyName[] = ['a pinned', 'b whole replay', 'd conservative'];

/** HELS_RESIDENCY_POLICIES=a,c: those whose names begin so; HELS_RESIDENCY_TIMES=1,3: over-subscriptions; HELS_RESIDENCY_REQUESTS. */
const wantedPolicies = process.env['HELS_RESIDENCY_POLICIES']?.split(',') ?? [];
const overSubscriptions = (process.env['HELS_RESIDENCY_TIMES'] ?? '1,1.5,2,3')
  .split(',')
  .map(Number);
const requestCount = Number(process.env['HELS_RESIDENCY_REQUESTS'] ?? 20);

/** The first has a core to itself and half of the heads, and a fifth of the memory; the others share a core with controller and client. */
const workers = [
  { device: 'cpu?threads=1&memory=216MiB&host=256MiB', core: 0 },
  { device: 'cpu?threads=1&memory=1080MiB&host=256MiB', core: 1 },
  { device: 'cpu?threads=1&memory=1080MiB&host=256MiB', core: 1 },
];
const ranks = [6, 3, 3].map((headGroups, index) => ({
  workerId: `worker-${index}`,
  headGroups,
  ffnWeight: headGroups,
}));
/** What the plan is made for, and the size of a slot. */
const planned = { sequences: 2, contextTokens: 640 };
/** Two loads of one plan differ by so much here. */
const noise = 0.05;
const remoteGain = 1.3;
/** Below, hardly more sequences are there than run anyway (docs/benchmarks.md). */
const remoteTimesMin = 2;
const pathErrorPercentMax = 15;

interface Measured {
  policy: PolicyName;
  times: number;
  streams: number;
  load: ClosedLoadResult;
  steps: number;
  counters: KvCounters;
  peaks: KvPeaks;
}

async function measure(
  { cluster }: BenchCluster,
  requests: readonly TracedRequest[],
  streams: number,
): Promise<Pick<Measured, 'load' | 'steps' | 'counters' | 'peaks'>> {
  const stepsBefore = (await cluster.client.status()).steps;
  const before = await readCounters(cluster.httpUrl);
  const work = runClosedLoad(cluster.client, requests, streams);
  const { result, peaks } = await watchPeaks(cluster.client, work);
  const after = await readCounters(cluster.httpUrl);
  const steps = (await cluster.client.status()).steps - stepsBefore;
  return { load: result, steps, counters: difference(after, before), peaks };
}

const tokensOf = ({ plan }: PlanReport) => (plan?.kvBlocks ?? 0) * (plan?.kvBlockTokens ?? 0);

const isWanted = (name: PolicyName) =>
  wantedPolicies.length === 0 || wantedPolicies.some((begin) => name.startsWith(begin));

function rowOf({ policy, times, streams, load, steps, counters, peaks }: Measured) {
  return {
    'over-subscription': times,
    streams,
    policy,
    'tokens/s': load.tokensPerSecond,
    'TTFT ms P50': 1000 * load.firstTokenSeconds.p50,
    'TTFT P95': 1000 * load.firstTokenSeconds.p95,
    'TPOT ms P50': 1000 * load.perTokenSeconds.p50,
    'TPOT P95': 1000 * load.perTokenSeconds.p95,
    'ran at once': peaks.running,
    steps,
    'answer tokens a step': load.tokens / steps,
    preempted: counters.preempted,
    'reloaded tokens': counters.reloadedTokens,
    'replayed tokens': counters.replayedTokens,
    'remote tokens': peaks.remoteTokens,
    'recalled tokens': counters.recalledTokens,
    'recompute tax %': (100 * counters.recomputedTokens) / counters.computedTokens,
    'moves s': counters.reloadSeconds,
    'exchange s': counters.remoteSeconds,
  };
}

function goalsOf(measured: readonly Measured[]): Goal[] {
  const rate = (policy: PolicyName, times: number) =>
    measured.find((one) => one.policy === policy && one.times === times)?.load.tokensPerSecond;
  return overSubscriptions.flatMap((times) => {
    const known = baselines.flatMap((policy) => rate(policy, times) ?? []);
    const best = Math.max(...known);
    const evicting = rate('c evict, restore', times);
    const remote = rate('e remote attention', times);
    if (known.length === 0) return [];
    const goals: Goal[] = [];
    if (evicting !== undefined) {
      goals.push(atLeast(`${times}x: c / best of a, b, d`, evicting / best, 1 - noise));
    }
    if (remote !== undefined && times >= remoteTimesMin) {
      goals.push(atLeast(`${times}x: e / best of a, b, d`, remote / best, remoteGain));
    }
    return goals;
  });
}

/** What the controller predicted for each path of KV, beside what the ranks took. */
async function pathRows({ cluster }: BenchCluster, policy: PolicyName) {
  const { kvPaths } = await cluster.client.status();
  return kvPaths.map((one) => ({
    policy,
    path: one.path,
    steps: one.steps,
    'predicted s': one.predictedSeconds,
    'measured s': one.measuredSeconds,
    'measured/predicted': one.ratio,
    'median error %, as fitted': one.errorMedianPercent,
    'as refined': one.refinedErrorMedianPercent,
  }));
}
type PathRow = Awaited<ReturnType<typeof pathRows>>[number];

/** Fewer steps say nothing about a median. */
const pathStepsMin = 20;

const pathGoals = (rows: readonly PathRow[]) =>
  rows
    .filter(({ steps }) => steps >= pathStepsMin)
    .map((row) => {
      const name = `${row.policy}: median error % of ${row.path}, refined`;
      return atMost(name, row['as refined'], pathErrorPercentMax);
    });

const wanted = (Object.keys(policies) as PolicyName[]).filter(isWanted);
type Clusters = ReadonlyMap<PolicyName, BenchCluster>;

/** A cluster for each policy, all at once; those that wait take no time. */
async function withClusters<Result>(
  names: readonly PolicyName[],
  use: (clusters: Clusters) => Promise<Result>,
  open: Clusters = new Map(),
): Promise<Result> {
  const [name, ...rest] = names;
  if (name === undefined) return await use(open);
  return await withCluster(workers, 1, (cluster) =>
    withClusters(rest, use, new Map([...open, [name, cluster]])),
  );
}

async function deploy(cluster: BenchCluster, policy: PolicyName): Promise<PlanReport> {
  const choice: Partial<DeployOptions> = policies[policy];
  const modelPath = await randomModel(shape110M);
  const workload = { ...planned, ...choice.workload };
  const options = { modelPath, workersMin: 3, ranks, prefixCache: false };
  return await cluster.deploy({ ...options, ...choice, workload });
}

const roomRow = (policy: PolicyName, report: PlanReport) => ({
  policy,
  'KV tokens that can run': tokensOf(report),
  parked: (report.plan?.kvParkedBlocks ?? 0) * (report.plan?.kvBlockTokens ?? 0),
  'share of KV bytes by rank': (report.plan?.ranks ?? [])
    .map(({ kvShare }) => kvShare.toFixed(2))
    .join(' '),
});

/** One load with every policy, then the next load: what disturbs the machine for a while disturbs all policies. */
async function compare(
  clusters: Clusters,
  requests: readonly TracedRequest[],
  log: (line: string) => void,
) {
  const capacities: Table['rows'] = [];
  const measured: Measured[] = [];
  const paths: PathRow[] = [];
  let pinnedTokens = 0;
  for (const [policy, cluster] of clusters) {
    log(`${policy}: deploying`);
    const report = await deploy(cluster, policy);
    // Only loans make it more than what the small rank holds.
    if (pinnedTokens === 0) pinnedTokens = tokensOf(report);
    capacities.push(roomRow(policy, report));
  }
  for (const times of overSubscriptions) {
    const streams = streamsFor(requests, times * pinnedTokens);
    for (const [policy, cluster] of clusters) {
      const result = await measure(cluster, requests, streams);
      measured.push({ policy, times, streams, ...result });
      log(`${times}x, ${policy}: ${result.load.tokensPerSecond.toFixed(0)} tokens/s`);
    }
  }
  for (const [policy, cluster] of clusters) paths.push(...(await pathRows(cluster, policy)));
  return { capacities, measured, paths };
}

export const kvResidency: Benchmark = {
  name: 'kv-residency',
  summary: 'KV that has no room: every policy on three daemons, one with a fifth of the memory',
  async run(log) {
    if (!hasTrace()) {
      return {
        tables: [],
        goals: [],
        notes: [`not run: no trace at ${tracePath}; set HELS_SHARED`],
      };
    }
    const requests = traceSlice(requestCount, planned.contextTokens);
    const { capacities, measured, paths } = await withClusters(wanted, (clusters) =>
      compare(clusters, requests, log),
    );
    const texts = new Set(measured.map(({ load }) => load.answers.join('\n')));
    return {
      tables: [
        { title: 'room for KV', rows: capacities },
        { title: `${requests.length} requests, closed loads`, rows: measured.map(rowOf) },
        { title: 'predicted and measured, steps of all loads of a deployment', rows: paths },
      ],
      goals: [
        atMost('different texts over all runs', texts.size, 1),
        ...goalsOf(measured),
        ...pathGoals(paths),
      ],
      notes: [
        `${requests.length} requests of ${basename(tracePath)}, from number ${firstRequest} on, of at most ${planned.contextTokens} tokens; prompts / ${promptDivisor}, answers / ${answerDivisor}`,
        `a stream sends its next request when it has its answer, so that the load saturates; peak demand of all requests at once: ${peakDemandTokens(requests, requests.length)} tokens`,
        'each policy has daemons of its own; one load runs at a time, with every policy in turn',
      ],
    };
  },
};
