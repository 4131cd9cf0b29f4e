/** A loaded group -> what its step loop and scheduler work with. */
import { isGpuLoan, localBlocksOf, residencyOf } from '../../proto/domain/kv-residency.ts';
import type { DeploymentRequest } from '../cluster/group.ts';
import { type LoadedGroup, workloadOf } from '../deployment/deployment-run.ts';
import type { KvPathTracker } from '../deployment/kv-path-tracker.ts';
import { restoreCostsOf } from '../deployment/restore-costs.ts';
import { cheapestRestore } from '../scheduler/restore-choice.ts';
import type { SchedulerLimits } from '../scheduler/scheduler.ts';
import { movesPerStepMost } from '../scheduler/scheduler-limits.ts';
import { grpcRankStream } from './rank-stream.ts';
import type { EpochOptions } from './step-loop-options.ts';

/** Requests that may wait for a slot, by those that run at once: so that a burst waits and a flood is refused. */
const waitingPerSlot = 8;

/** What a deployment says about its KV. */
export type KvChoices = Pick<DeploymentRequest, 'prefixCache' | 'kvPolicy' | 'workload'>;

/** What the scheduler does when KV runs out. Slots have the length that the deployment is for, whatever load the plan was made at. */
function shortageOf(choices: KvChoices, { planRequest }: LoadedGroup): Partial<SchedulerLimits> {
  switch (choices.kvPolicy) {
    case 'replay':
      return { replaysWhole: true };
    case 'reserve':
      return { reserveTokens: 1 };
    case 'slots':
      return { reserveTokens: workloadOf(choices, planRequest.model).contextTokens };
    default:
      return {};
  }
}

/**
 * By the fitted costs, as what the group's steps take refines them. A step's moves take about as long as it computes: others wait for them.
 * Between GPUs nothing that is lent moves.
 */
function movesOf(
  group: LoadedGroup,
  paths: KvPathTracker,
): Pick<SchedulerLimits, 'parking' | 'recallsPerStepMax'> {
  const { kvParkedBlocks: blocks, kvBlockTokens, predictedDecodeSeconds } = group.shardPlan;
  const costs = restoreCostsOf(group);
  const most = (secondsPerBlock = 0) =>
    Math.max(1, Math.min(movesPerStepMost, Math.floor(predictedDecodeSeconds / secondsPerBlock)));
  const recallsPerStepMax = isGpuLoan(kvBlockTokens) ? 0 : most(costs?.recallSecondsPerBlock);
  if (costs === null) return { parking: { blocks }, recallsPerStepMax };
  const choice = cheapestRestore(costs, (path) => paths.ratioOf(path));
  const movesPerStepMax = most(costs.moveSecondsPerBlock);
  return { parking: { blocks, choice, movesPerStepMax }, recallsPerStepMax };
}

/** Prompts of several sequences can fill a step that is longer than the chunk which the plan was made for. */
function longestStepSeconds({
  shardPlan,
  input,
}: Pick<LoadedGroup, 'shardPlan' | 'input'>): number {
  const chunks = Math.max(1, shardPlan.stepTokensMax / input.workload.prefillChunk);
  return Math.max(shardPlan.predictedDecodeSeconds, chunks * shardPlan.predictedPrefillSeconds);
}

export function epochOptionsOf(
  group: LoadedGroup,
  choices: KvChoices,
  paths: KvPathTracker,
): EpochOptions {
  const { shardPlan } = group;
  const { kvBlocks, kvBlockTokens, stepTokensMax, sequencesMax } = shardPlan;
  return {
    epoch: shardPlan.epoch,
    limits: {
      kvBlocks,
      localBlocks: localBlocksOf(residencyOf(shardPlan)),
      kvBlockTokens,
      ...shortageOf(choices, group),
      ...movesOf(group, paths),
      stepTokensMax,
      sequencesMax,
      contextTokensMax: shardPlan.model?.maxPositions ?? 0,
      waitingMax: waitingPerSlot * sequencesMax,
    },
    ranks: group.workers.map((worker) => grpcRankStream(worker.id, worker.client.stub)),
    predictedStepSeconds: longestStepSeconds(group),
  };
}
