/** What a re-plan will cost, before it is done: from loading rates, links and lines that were measured on the group. Pure. */
import type { PlanInput } from '../../proto/domain/plan.ts';
import type { PredictedPause__Output } from '../../proto/gen/hels/v1/PredictedPause.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import { groupSeconds } from '../planner/lockstep.ts';
import { plannedShares } from '../planner/planned-shares.ts';
import { footprintOf } from '../planner/problem.ts';
import { rankSeconds } from '../planner/step-seconds.ts';
import type { LoadedGroup } from './deployment-run.ts';
import { arrivingOf, type KeptKv } from './kv-migration.ts';
import { plannedRanksOf } from './plan-report.ts';

type Measured = Pick<LoadedGroup, 'shardPlan' | 'loadRates' | 'connectSeconds'> & {
  readonly profiles: ReadonlyMap<string, { readonly copyBytesPerSecond: number }>;
};

export interface PauseQuestion {
  readonly from: Measured;
  readonly to: { readonly shardPlan: ShardPlan__Output; readonly input: PlanInput };
  /** It moves to where its heads go, or their holder; all other KV of the requests is computed again. */
  readonly kept: KeptKv;
  /** Measured / predicted of earlier re-plans; 1 before the first. */
  readonly ratio: number;
}

type Interval = { readonly begin: number; readonly end: number } | null;
const sizeOf = (range: Interval) => (range === null ? 0 : range.end - range.begin);

/** Entries of `next` to be loaded: a worker takes over the weights of a range that stays as it is, and no part of another. */
function loadedOf(next: Interval, former: Interval): number {
  const same = next?.begin === former?.begin && next?.end === former?.end;
  return same ? 0 : sizeOf(next);
}

/** Of each new rank: what it has not got yet. Bytes of weights and of KV. */
function missing({ from, to, kept }: PauseQuestion) {
  const { fixed, perHeadGroup, perColumn, perRow, kvPerTokenHeadGroup } = footprintOf(
    to.input.model,
  );
  const arriving = arrivingOf(from.shardPlan, to.shardPlan, kept);
  // The rows of the output matrix are then those of the embedding, which everybody has.
  const tied = to.shardPlan.model?.tiedEmbeddings ?? false;
  const rowBytes = tied ? 0 : perRow;
  // A rank with all rows of a tied head has no embedding beside it: with fewer, or again with all, it reads one anew.
  const holdsAll = (rows: Interval) => tied && sizeOf(rows) === to.input.model.vocabRows;
  return to.shardPlan.ranks.map((rank, index) => {
    const former = from.shardPlan.ranks.find(({ workerId }) => workerId === rank.workerId);
    const weightBytes =
      (former === undefined || holdsAll(former.vocabRows) !== holdsAll(rank.vocabRows)
        ? fixed
        : 0) +
      loadedOf(rank.headGroups, former?.headGroups ?? null) * perHeadGroup +
      loadedOf(rank.ffnColumns, former?.ffnColumns ?? null) * perColumn +
      loadedOf(rank.vocabRows, former?.vocabRows ?? null) * rowBytes;
    const kvBytes = (arriving[index] ?? 0) * to.shardPlan.kvBlockTokens * kvPerTokenHeadGroup;
    return { workerId: rank.workerId, weightBytes, kvBytes };
  });
}

/** Of KV to this worker. Collectives sum 8 bytes an element, twice in each layer; without a link it is a copy. */
function kvBytesPerSecond({ from, to }: PauseQuestion, workerId: string): number {
  const { layers, hiddenSize } = to.input.model;
  const perToken = to.input.devices.find(({ id }) => id === workerId)?.link?.perToken ?? 0;
  if (perToken > 0) return (2 * layers * hiddenSize * 8) / perToken;
  return from.profiles.get(workerId)?.copyBytesPerSecond ?? 0;
}

/** Steps of so many prompt tokens until all positions are computed; the seconds of one, and of all. */
function replay({ to, kept }: PauseQuestion): { step: number; all: number } {
  const contextTo = (position: number) => (position * (position + 1)) / 2;
  let tokens = 0;
  let context = 0;
  for (const sequence of kept.sequences) {
    tokens += sequence.computed - sequence.kept;
    context += contextTo(sequence.computed) - contextTo(sequence.kept);
  }
  if (tokens === 0) return { step: 0, all: 0 };
  const steps = Math.ceil(tokens / to.shardPlan.stepTokensMax);
  const shares = plannedShares(to.input, { ranks: plannedRanksOf(to.shardPlan) });
  const prefill = { prefillTokens: tokens / steps, prefillContextTokens: context / steps };
  const load = { decodeTokens: 0, decodeContextTokens: 0, ...prefill };
  const ranks = rankSeconds(to.input, shares, load).filter((rank) => rank !== null);
  const step = groupSeconds(ranks, to.input.objective === 'lockstep');
  return { step, all: steps * step };
}

export function predictPause(question: PauseQuestion): PredictedPause__Output {
  const { from, ratio } = question;
  const lacking = missing(question);
  const slowest = Math.min(...from.loadRates.values());
  const loadSeconds = Math.max(
    ...lacking.map(({ workerId, weightBytes }) => {
      const rate = from.loadRates.get(workerId) ?? slowest;
      return weightBytes > 0 ? weightBytes / rate : 0;
    }),
  );
  const moving = Math.max(
    ...lacking.map(({ workerId, kvBytes }) =>
      kvBytes > 0 ? kvBytes / kvBytesPerSecond(question, workerId) : 0,
    ),
  );
  const again = replay(question);
  const kvSeconds = (Number.isFinite(moving) ? moving : 0) + again.step;
  return {
    seconds: ratio * (loadSeconds + from.connectSeconds + kvSeconds),
    loadSeconds: ratio * loadSeconds,
    kvSeconds: ratio * kvSeconds,
    replaySeconds: again.all,
    weightBytes: lacking.reduce((sum, { weightBytes }) => sum + weightBytes, 0),
    kvBytes: lacking.reduce((sum, { kvBytes }) => sum + kvBytes, 0),
  };
}
