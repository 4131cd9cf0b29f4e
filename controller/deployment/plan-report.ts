import type { PlanReport } from '../../proto/gen/hels/v1/PlanReport.ts';
import type { RankShard__Output } from '../../proto/gen/hels/v1/RankShard.ts';
import { predictSeconds } from '../profiler/latency-terms.ts';
import type { LoadedGroup } from './deployment-run.ts';

/** A load of decode steps and its median seconds: each rank's kernels, and the whole step with collectives. */
export interface MeasuredSteps {
  sequences: number;
  /** Sum over the sequences. */
  contextTokens: number;
  rankSeconds: number[];
  stepSeconds: number;
}

const sizeOf = (range: { begin: number; end: number } | null) =>
  range === null ? 0 : range.end - range.begin;

function predictRank(
  group: LoadedGroup,
  shard: RankShard__Output,
  measured: MeasuredSteps,
): number {
  const lines = group.profiles.get(shard.workerId)?.fit.decode ?? [];
  return predictSeconds(lines, {
    prefill: false,
    tokens: measured.sequences,
    contextTokens: measured.contextTokens,
    headGroups: sizeOf(shard.headGroups),
    ffnColumns: sizeOf(shard.ffnColumns),
    vocabRows: sizeOf(shard.vocabRows),
  });
}

function linkSeconds(group: LoadedGroup, rank: number, measured: MeasuredSteps): number {
  if (group.workers.length === 1) return 0;
  const id = group.workers[rank]?.id;
  const link = group.input.devices.find((device) => device.id === id)?.link;
  return (link?.constant ?? 0) + (link?.perToken ?? 0) * measured.sequences;
}

/** The plan, with predictions for the measured load beside the measurements. */
export function planReportOf(group: LoadedGroup, measured: MeasuredSteps): PlanReport {
  const { shardPlan } = group;
  const predicted = shardPlan.ranks.map((shard) => predictRank(group, shard, measured));
  return {
    plan: shardPlan,
    numericsClass: group.numericsClass,
    fingerprints: group.fingerprints,
    measuredDecodeSeconds: measured.stepSeconds,
    predictedDecodeSeconds: Math.max(
      ...predicted.map((seconds, rank) => seconds + linkSeconds(group, rank, measured)),
    ),
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
