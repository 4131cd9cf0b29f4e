import type { HalfOpenRange, PlanInput } from '../../proto/domain/plan.ts';
import type { PlanReport } from '../../proto/gen/hels/v1/PlanReport.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import { plannedDecodeSeconds } from '../planner/planned-shares.ts';
import { predictSeconds } from '../profiler/latency-terms.ts';
import type { LoadedGroup } from './deployment-run.ts';
import { exactnessOf } from './numerics.ts';

/** A load of decode steps and its median seconds: each rank's kernels, and the whole step with collectives. */
export interface MeasuredSteps {
  sequences: number;
  /** Sum over the sequences. */
  contextTokens: number;
  rankSeconds: number[];
  stepSeconds: number;
}

export const nothingMeasured: MeasuredSteps = {
  sequences: 0,
  contextTokens: 0,
  rankSeconds: [],
  stepSeconds: 0,
};

const sizeOf = ([begin, end]: HalfOpenRange) => end - begin;

/** Decode seconds of one rank's kernels at the measured load, by the lines that it was planned with. */
export function predictRank(
  input: PlanInput,
  rank: ReturnType<typeof plannedRanksOf>[number],
  measured: MeasuredSteps,
): number {
  const lines = [input.devices.find(({ id }) => id === rank.device)?.decode ?? []].flat();
  return predictSeconds(lines, {
    prefill: false,
    tokens: measured.sequences,
    contextTokens: measured.contextTokens,
    headGroups: sizeOf(rank.headGroups),
    ffnColumns: sizeOf(rank.ffnColumns),
    vocabRows: sizeOf(rank.vocabRows),
  });
}

const rangeOf = (range: { begin: number; end: number } | null): HalfOpenRange =>
  range === null ? [0, 0] : [range.begin, range.end];

/** The plan's ranks in the planner's words. */
export function plannedRanksOf(plan: ShardPlan__Output) {
  return plan.ranks.map(({ workerId, headGroups, ffnColumns, vocabRows }) => ({
    device: workerId,
    headGroups: rangeOf(headGroups),
    ffnColumns: rangeOf(ffnColumns),
    vocabRows: rangeOf(vocabRows),
  }));
}

/** The whole step's seconds, links and waiting for each other included. */
function predictStep({ input, shardPlan }: LoadedGroup, measured: MeasuredSteps): number {
  const sequences = Math.max(1, measured.sequences);
  const contextTokens = Math.max(1, Math.round(measured.contextTokens / sequences));
  const workload = { ...input.workload, sequences, contextTokens };
  return plannedDecodeSeconds({ ...input, workload }, plannedRanksOf(shardPlan));
}

/** The plan, with predictions for the measured load beside the measurements. */
export function planReportOf(group: LoadedGroup, measured: MeasuredSteps): PlanReport {
  const { shardPlan, input } = group;
  const predicted = plannedRanksOf(shardPlan).map((rank) => predictRank(input, rank, measured));
  return {
    plan: shardPlan,
    numericsClass: group.numericsClass,
    ...exactnessOf(group),
    fingerprints: group.fingerprints,
    measuredDecodeSeconds: measured.stepSeconds,
    predictedDecodeSeconds: predictStep(group, measured),
    measuredSequences: measured.sequences,
    measuredContextTokens: measured.contextTokens,
    ranks: group.workers.map((worker, rank) => ({
      workerId: worker.id,
      device: worker.device,
      predictedDecodeSeconds: predicted[rank] ?? 0,
      measuredDecodeSeconds: measured.rankSeconds[rank] ?? 0,
      weightBytesLoaded: group.prepared[rank]?.weightBytesLoaded ?? 0,
      loadSeconds: group.prepared[rank]?.seconds ?? 0,
      fitErrorMedianPercent:
        group.profiles.get(worker.id)?.fit.phases.decode.heldOut.medianAbsolutePercent ?? 0,
    })),
  };
}
