/** What it costs to bring KV back by each path, from what was measured on the group's devices. Pure. */

import { localBlocksOf, residencyOf } from '../../proto/domain/kv-residency.ts';
import type { StepLoad } from '../../proto/domain/step-load.ts';
import { groupSeconds } from '../planner/lockstep.ts';
import { plannedShares } from '../planner/planned-shares.ts';
import { footprintOf } from '../planner/problem.ts';
import { attentionPartBytes, linkSecondsPerByte, remoteKvOf } from '../planner/remote-workload.ts';
import { linkOf } from '../planner/step-lines.ts';
import { rankSeconds } from '../planner/step-seconds.ts';
import type { RestoreCosts } from '../scheduler/restore-choice.ts';
import type { LoadedGroup } from './deployment-run.ts';
import { plannedRanksOf } from './plan-report.ts';

/** By worker id: memory to memory on its host. */
export interface MeasuredCopies {
  readonly profiles: ReadonlyMap<string, { readonly copyBytesPerSecond: number }>;
}

type Measured = Pick<LoadedGroup, 'shardPlan' | 'input'> & MeasuredCopies;

/** By rank: of one block of the group, the bytes that cross its link when it moves, on the mean over the addresses [0, kvBlocks) or over those lent. */
function linkBytes(
  { kvLoans, kvBlocks }: Measured['shardPlan'],
  blockBytes: readonly number[],
  firstAddress = 0,
) {
  return blockBytes.map((_, rank) =>
    kvLoans
      .filter(({ owner, holder }) => owner === rank || holder === rank)
      .reduce((sum, { owner, blocks }) => {
        const lent = (blocks?.end ?? 0) - (blocks?.begin ?? 0);
        return sum + (lent / (kvBlocks - firstAddress)) * (blockBytes[owner] ?? 0);
      }, 0),
  );
}

/**
 * Copies on one thread, and over the links what lies on other ranks, all ranks at once: the slowest decides. null: a rank's copying was not
 * measured.
 */
function moveSecondsPerBlock(
  { shardPlan, input, profiles }: Measured,
  firstAddress: number,
): number | null {
  const { kvPerTokenHeadGroup } = footprintOf(input.model);
  const blockBytes = shardPlan.ranks.map(({ headGroups }) => {
    const groups = (headGroups?.end ?? 0) - (headGroups?.begin ?? 0);
    return shardPlan.kvBlockTokens * groups * kvPerTokenHeadGroup;
  });
  const crossing = linkBytes(shardPlan, blockBytes, firstAddress);
  const seconds = shardPlan.ranks.map(({ workerId }, rank) => {
    const bytes = blockBytes[rank] ?? 0;
    const copy = bytes === 0 ? 0 : bytes / (profiles.get(workerId)?.copyBytesPerSecond ?? 0);
    const device = input.devices.find(({ id }) => id === workerId);
    const perByte =
      device === undefined ? 0 : linkSecondsPerByte(linkOf(device, input), input.model);
    return copy + (crossing[rank] ?? 0) * perByte;
  });
  const slowest = Math.max(...seconds);
  return Number.isFinite(slowest) ? slowest : null;
}

/** Of a step's exchanges, on the slowest of the ranks that lend or hold: beginning them, and what a block adds for a row that decodes. */
function exchangesOf({ shardPlan, input }: Pick<Measured, 'shardPlan' | 'input'>) {
  const remote = remoteKvOf({ ...input, workload: { ...input.workload, allowRemoteKv: true } });
  const { layers, queryHeadsPerGroup, headDim } = input.model;
  const partBytes = layers * queryHeadsPerGroup * attentionPartBytes(headDim);
  const costs = shardPlan.kvLoans.flatMap(({ owner, holder }) => {
    const { begin = 0, end = 0 } = shardPlan.ranks[owner]?.headGroups ?? {};
    return [owner, holder].map((rank) => {
      const id = shardPlan.ranks[rank]?.workerId;
      const device = input.devices.findIndex((one) => one.id === id);
      const perByte = remote?.secondsPerByte[device] ?? 0;
      const perBlock = (end - begin) * partBytes * perByte;
      return { perStep: remote?.exchangeSeconds[device] ?? 0, perBlock };
    });
  });
  return {
    exchangeSecondsPerStep: Math.max(0, ...costs.map(({ perStep }) => perStep)),
    exchangeSecondsPerBlock: Math.max(0, ...costs.map(({ perBlock }) => perBlock)),
  };
}

/**
 * Replayed tokens ride in steps that decode anyway, so they cost what they add to such a step. null: not known, as without a measurement
 * of copying.
 */
export function restoreCostsOf(group: Measured): RestoreCosts | null {
  const { input, shardPlan } = group;
  const move = moveSecondsPerBlock(group, 0);
  const recall = moveSecondsPerBlock(group, localBlocksOf(residencyOf(shardPlan)));
  if (move === null || recall === null) return null;
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
    recallSecondsPerBlock: recall,
    ...exchangesOf(group),
    replaySecondsPerToken: (tokens - bare) / prefillChunk,
    replaySecondsPerContextToken: (attending - tokens) / context,
  };
}
