/**
 * One model over three unequal workers, every policy in one run. The fast worker has core 0; the two slow ones, the controller and the
 * client share core 1. Ideal figures come from each worker's speed alone, measured in the same round, and from nothing else.
 */
import type { PlanReport } from '../../client/sdk/index.ts';
import { atLeast, type Benchmark } from './benchmark.ts';
import {
  answers,
  batches,
  byHand,
  heterogeneousRounds,
  memories,
  outputTokens,
  type Policy,
  policies,
  promptTokens,
  type Round,
  roundCount,
  speeds,
} from './heterogeneous/rounds.ts';
import { shape110M } from './random-model.ts';
import { median } from './statistics.ts';

const idealShare = 0.8;
/** Medians of one plan differ by so much here: a policy that is within it is as good. */
const noise = 0.05;
const others = policies.filter((policy) => policy !== 'hels');

const sequencesText = (count: number) => `${count} sequence${count === 1 ? '' : 's'}`;

const size = (range: { begin: number; end: number } | null) =>
  range === null ? 0 : range.end - range.begin;

type Part = 'headGroups' | 'ffnColumns' | 'vocabRows';

function shares(report: PlanReport | undefined, part: Part): string {
  return (report?.plan?.ranks ?? [])
    .map((rank) => `${rank.workerId.replace('worker-', '')}:${size(rank[part])}`)
    .join(' ');
}

const tpotOf = ({ splits }: Round, split: string, column: number) =>
  splits.get(split)?.perTokenSeconds[column] ?? Number.NaN;
const throughputOf = ({ splits }: Round, split: string) =>
  splits.get(split)?.tokensPerSecond ?? Number.NaN;
const medianOf = (rounds: readonly Round[], value: (round: Round) => number) =>
  median(rounds.map(value));

/** Plans are those of the last round. */
function rowOf(rounds: readonly Round[], split: string, column: number) {
  const report = rounds.at(-1)?.splits.get(split)?.reports[column];
  const compute = report?.ranks.map((rank) => rank.measuredDecodeSeconds) ?? [];
  const tpots = rounds.map((round) => 1000 * tpotOf(round, split, column));
  return {
    split,
    heads: shares(report, 'headGroups'),
    'FFN columns': shares(report, 'ffnColumns'),
    'vocabulary rows': shares(report, 'vocabRows'),
    'TPOT ms': median(tpots),
    least: Math.min(...tpots),
    most: Math.max(...tpots),
    'step ms: predicted': 1000 * (report?.predictedDecodeSeconds ?? Number.NaN),
    measured: 1000 * (report?.measuredDecodeSeconds ?? Number.NaN),
    // Well below the step: the ranks wait for each other between layers.
    'slowest rank computes': 1000 * Math.max(...compute),
  };
}

/** Equal parts take as long as the slowest worker needs for its part; the ideal is all speeds added up. */
function idealGain({ solo }: Round, column: number): number {
  const rates = solo.map((seconds) => 1 / (seconds[column] ?? Number.NaN));
  const sum = rates.reduce((total, rate) => total + rate, 0);
  return sum / (speeds.length * Math.min(...rates));
}

/** Ratios are of one round each, then the median: what disturbs the machine for minutes disturbs both sides. */
function gainRow(rounds: readonly Round[], column: number) {
  const gain = (round: Round) => tpotOf(round, 'equal', column) / tpotOf(round, 'hels', column);
  const against = (other: Policy) => (round: Round) =>
    tpotOf(round, other, column) / tpotOf(round, 'hels', column);
  return {
    streams: batches[column] ?? 0,
    gain: medianOf(rounds, gain),
    ideal: medianOf(rounds, (round) => idealGain(round, column)),
    'gain / ideal': medianOf(rounds, (round) => gain(round) / idealGain(round, column)),
    'best other / hels': Math.min(...others.map((other) => medianOf(rounds, against(other)))),
  };
}

function throughputAgainstBest(rounds: readonly Round[]): number {
  const against = (other: Policy) => (round: Round) =>
    throughputOf(round, 'hels') / throughputOf(round, other);
  return Math.min(...others.map((other) => medianOf(rounds, against(other))));
}

const notes = [
  'each TPOT with the plan that the policy makes for so many sequences; shares are those of the last round',
  `${shape110M.name} in bf16, prompt ${promptTokens}, answer ${outputTokens} tokens; memory ${memories.join(', ')}`,
  `medians of ${roundCount} rounds over workers alone and all splits, ratios within a round; TPOT of ${answers} answers a stream`,
  'fast worker on core 0; slow workers, controller and client on core 1; slow-down by sleeping after each kernel',
];

export const heterogeneous: Benchmark = {
  name: 'heterogeneous',
  summary:
    'three unequal workers, every policy in one run, against the speeds of each worker alone',
  async run(log) {
    const rounds = await heterogeneousRounds(log);
    const splits = [...policies, byHand];
    const gains = [...batches.keys()].map((column) => gainRow(rounds, column));
    const soloOf = (worker: number, column: number) =>
      medianOf(rounds, ({ solo }) => 1000 * (solo[worker]?.[column] ?? Number.NaN));
    return {
      tables: [
        {
          title: 'each worker alone with the whole model',
          rows: speeds.map((speed, worker) => ({
            worker: `worker-${worker}`,
            speed,
            'TPOT ms, 1': soloOf(worker, 0),
            'TPOT ms, 8': soloOf(worker, 1),
          })),
        },
        ...batches.map((streams, column) => ({
          title: `all three together, plans for ${sequencesText(streams)}`,
          rows: splits.map((split) => rowOf(rounds, split, column)),
        })),
        {
          title: 'all three together, plans for the largest batch that fits',
          rows: splits.map((split) => ({
            split,
            'largest batch': rounds.at(-1)?.splits.get(split)?.largestBatch ?? 0,
            'tokens/s there': medianOf(rounds, (round) => throughputOf(round, split)),
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
        atLeast('throughput of hels / best other policy', throughputAgainstBest(rounds), 1 - noise),
      ],
      notes,
    };
  },
};
