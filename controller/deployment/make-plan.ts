/** Profiles, memory and a workload -> the shard plan of a new epoch. Pure apart from timing the solver. */
import { HelsError } from '../../proto/domain/errors.ts';
import { loanBlockTokens } from '../../proto/domain/kv-residency.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { PlanInput, PlanPolicy, PlanWorkload } from '../../proto/domain/plan.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import { loanBlockTokensOf, type ProfiledDevice, toPlanInput } from '../profiler/plan-input.ts';
import { kvHomesOf } from './kv-homes.ts';
import { requireParked, requireRoom } from './require-room.ts';
import { type ManualRank, solvePlan } from './solve-plan.ts';

export interface PlanRequest {
  epoch: number;
  modelId: string;
  modelPath: string;
  modelDigest: string;
  model: ModelSpec;
  devices: readonly ProfiledDevice[];
  workload: PlanWorkload;
  policy: PlanPolicy;
  /** Empty: the policy decides. */
  manual: readonly ManualRank[];
  numerics: 'exact' | 'fast';
  stepTokensMax: number;
  sequencesMax: number;
  /** Of a plan whose KV lies with its heads; of one that may lend them the blocks have the size of loans. */
  kvBlockTokens: number;
  /** Whether sequences that give way may be kept at parked addresses. */
  parks: boolean;
  /** Where the workload does not fit, the plan is for as many of its sequences as do. */
  settles: boolean;
}

export interface MadePlan {
  shardPlan: ShardPlan__Output;
  /** Of the workload whose KV the plan holds at once. */
  input: PlanInput;
}

const rangeOf = ([begin, end]: readonly [number, number]) => ({ begin, end });

/** Attention on a GPU goes by chunks of its own. */
function requireLoans({ workload, devices }: PlanRequest): void {
  const [first, ...others] = devices;
  if (workload.allowRemoteKv !== true || first === undefined) return;
  const tokens = loanBlockTokensOf(first);
  const other = others.find((device) => loanBlockTokensOf(device) !== tokens);
  if (other === undefined) return;
  const [gpu, cpu] = loanBlockTokensOf(other) > tokens ? [other, first] : [first, other];
  throw new HelsError(
    'config-invalid',
    `workload.allowRemoteKv: worker '${gpu.id}' is on a GPU and worker '${cpu.id}' is not; KV lies on other ranks of one kind only: ` +
      'leave it out, or deploy over workers of one kind',
    { field: 'workload.allowRemoteKv' },
  );
}

/** Throws plan-infeasible with the constraint that fails, and config-invalid for a split by hand that is not one of the model, or loans that a device cannot have. */
export function makePlan(request: PlanRequest, nowMs: () => number): MadePlan {
  const { model, devices, workload, policy } = request;
  requireLoans(request);
  const asked = toPlanInput(model, devices, workload, policy);
  const { solved, input, refusal } = solvePlan(asked, request, nowMs);
  if (!solved.feasible) {
    throw new HelsError('plan-infeasible', `no split fits: ${solved.reason ?? 'unknown reason'}`);
  }
  const blockTokens = input.loanBlockTokens ?? loanBlockTokens;
  const kvBlockTokens = solved.kvLoans === undefined ? request.kvBlockTokens : blockTokens;
  const sized = { ...request, kvBlockTokens };
  const kv = kvHomesOf(sized, solved);
  const { kvBlocks, kvParkedBlocks } = kv;
  requireRoom(sized, kvBlocks, kv.rooms);
  if (refusal !== null) requireParked(sized, kv, refusal);
  const stored = kv.homes.reduce((sum, { deviceBytes }) => sum + deviceBytes, 0);
  const ranks = solved.ranks.map((rank, index) => {
    const { deviceBlocks = 0, deviceBytes = 0, hostBytes = 0 } = kv.homes[index] ?? {};
    return {
      rank: index,
      workerId: rank.device,
      headGroups: rangeOf(rank.headGroups),
      ffnColumns: rangeOf(rank.ffnColumns),
      vocabRows: rangeOf(rank.vocabRows),
      weightBytes: rank.weightBytes,
      kvBytes: deviceBytes,
      kvTokens: rank.kvTokens,
      kvShare: stored > 0 ? deviceBytes / stored : rank.kvShare,
      kvDeviceBlocks: deviceBlocks,
      kvHostBytes: hostBytes,
    };
  });
  const { predicted } = solved;
  const shardPlan: ShardPlan__Output = {
    epoch: request.epoch,
    modelId: request.modelId,
    modelPath: request.modelPath,
    modelDigest: request.modelDigest,
    model,
    ranks,
    kvBlockTokens,
    kvBlocks,
    kvParkedBlocks,
    kvLoans: kv.loans.map(({ blocks, ...loan }) => ({ ...loan, blocks: { ...blocks } })),
    stepTokensMax: request.stepTokensMax,
    sequencesMax: request.sequencesMax,
    numerics: request.numerics,
    policy: request.manual.length > 0 ? 'manual' : policy,
    predictedDecodeSeconds: predicted.decodeSeconds,
    predictedPrefillSeconds: predicted.prefillSeconds,
    predictedRankSeconds: [...predicted.perRankSeconds],
    bindingConstraint: predicted.bindingConstraint,
  };
  return { shardPlan, input };
}
