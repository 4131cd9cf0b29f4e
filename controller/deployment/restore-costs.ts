/** What it costs to bring KV back by each path, from what was measured on the group's devices. Pure. */

import type { StepLoad } from '../../proto/domain/step-load.ts';
import { groupSeconds } from '../planner/lockstep.ts';
import { plannedShares } from '../planner/planned-shares.ts';
import { footprintOf } from '../planner/problem.ts';
import { rankSeconds } from '../planner/step-seconds.ts';
import type { RestoreCosts } from '../scheduler/restore-choice.ts';
import type { LoadedGroup } from './deployment-run.ts';
import { plannedRanksOf } from './plan-report.ts';

/** By worker id: memory to memory on its host. */
export interface MeasuredCopies {
  readonly profiles: ReadonlyMap<string, { readonly copyBytesPerSecond: number }>;
}

type Measured = Pick<LoadedGroup, 'shardPlan' | 'input'> & MeasuredCopies;

/** Copies on one thread, all ranks at once: the slowest decides. null: a rank's copying was not measured. */
function moveSecondsPerBlock({ shardPlan, input, profiles }: Measured): number | null {
  const { kvPerTokenHeadGroup } = footprintOf(input.model);
  const seconds = shardPlan.ranks.map(({ workerId, headGroups }) => {
    const groups = (headGroups?.end ?? 0) - (headGroups?.begin ?? 0);
    const blockBytes = shardPlan.kvBlockTokens * groups * kvPerTokenHeadGroup;
    return groups === 0 ? 0 : blockBytes / (profiles.get(workerId)?.copyBytesPerSecond ?? 0);
  });
  const slowest = Math.max(...seconds);
  return Number.isFinite(slowest) ? slowest : null;
}

/**
 * Replayed tokens ride in steps that decode anyway, so they cost what they add to such a step. null: not known, as without a measurement
 * of copying.
 */
export function restoreCostsOf(group: Measured): RestoreCosts | null {
  const move = moveSecondsPerBlock(group);
  if (move === null) return null;
  const { input, shardPlan } = group;
  const shares = plannedShares(input, { ranks: plannedRanksOf(shardPlan) });
  const { sequences, contextTokens, prefillChunk } = input.workload;
  const secondsOf = (load: Pick<StepLoad, 'prefillTokens' | 'prefillContextTokens'>) => {
    const decode = { decodeTokens: sequences, decodeContextTokens: sequences * contextTokens };
    const ranks = rankSeconds(input, shares, { ...decode, ...load }).filter(
      (rank) => rank !== null,
    );
    return groupSeconds(ranks, input.objective === 'lockstep');
  };
  const bare = secondsOf({ prefillTokens: 0, prefillContextTokens: 0 });
  const tokens = secondsOf({ prefillTokens: prefillChunk, prefillContextTokens: 0 });
  const context = prefillChunk * contextTokens;
  const attending = secondsOf({ prefillTokens: prefillChunk, prefillContextTokens: context });
  return {
    moveSecondsPerBlock: move,
    replaySecondsPerToken: (tokens - bare) / prefillChunk,
    replaySecondsPerContextToken: (attending - tokens) / context,
  };
}
