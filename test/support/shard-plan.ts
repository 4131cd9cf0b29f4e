/** A plan as it reaches a worker, for tests to vary. */
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import { modelSpec } from './model-spec.ts';

/** One entry for each rank: the id of its worker and its head groups. */
export function shardPlan(
  ranks: readonly { workerId: string; headGroups: [begin: number, end: number] }[],
  changes: Partial<ShardPlan__Output> = {},
): ShardPlan__Output {
  const range = { begin: 0, end: 1 };
  return {
    epoch: 1,
    modelId: 'm',
    modelPath: '/m',
    modelDigest: 'd',
    model: modelSpec(),
    ranks: ranks.map(({ workerId, headGroups: [begin, end] }, rank) => ({
      rank,
      workerId,
      headGroups: { begin, end },
      ffnColumns: range,
      vocabRows: range,
      weightBytes: 0,
      kvBytes: 0,
      kvTokens: 0,
      kvShare: 0,
      kvHostBytes: 0,
      kvDeviceBlocks: 0,
    })),
    kvBlockTokens: 16,
    kvBlocks: 8,
    kvParkedBlocks: 0,
    kvLoans: [],
    stepTokensMax: 8,
    sequencesMax: 2,
    numerics: 'exact',
    policy: 'hels',
    predictedDecodeSeconds: 0,
    predictedPrefillSeconds: 0,
    predictedRankSeconds: [],
    bindingConstraint: '',
    ...changes,
  };
}
