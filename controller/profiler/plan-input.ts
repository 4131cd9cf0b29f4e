import { loanBlockTokens } from '../../proto/domain/kv-residency.ts';
import { bytesPerWeight, type ModelSpec } from '../../proto/domain/model-spec.ts';
import type {
  LatencyLine,
  LinkLine,
  PlanInput,
  PlanModel,
  PlanPolicy,
  PlanWorkload,
} from '../../proto/domain/plan.ts';
import { quantizedBytesPerWeight } from '../../proto/domain/quantization.ts';

/** What deployments plan for, and what predicts a deployment: ranks meet within every layer (docs/decisions/0006-ranks-in-lockstep.md). */
export const deploymentObjective = 'lockstep' satisfies PlanInput['objective'];

/** A device as the planner needs it: its fitted lines and its memory. */
export interface ProfiledDevice {
  readonly id: string;
  readonly memoryBytes: number;
  /** Scratch, norms and whatever else is neither weights that are split, embedding nor KV. */
  readonly reservedBytes: number;
  readonly decode: LatencyLine[];
  readonly prefill: LatencyLine[];
  readonly link: LinkLine;
  readonly exchangeLink?: LinkLine;
  /** Host memory for parked KV; absent: none. */
  readonly hostMemoryBytes?: number;
  /** Positions of a block of KV that its engine lends or holds; absent: those of processors. */
  readonly loanBlockTokens?: number;
}

/** Bytes of a weight of the layers (the most of their matrices, which differ where groups are not full) and of the head. */
function weightBytesOf(model: ModelSpec) {
  const { quantization, hiddenSize, embeddingSize, ffnColumns, ffnGranule } = model;
  const plain = bytesPerWeight(model.weightType);
  if (quantization === 'none') return { weightBytesPerParam: plain };
  const queries = model.queryHeadsPerGroup * model.headDim;
  return {
    weightBytesPerParam: Math.max(
      quantizedBytesPerWeight(quantization, hiddenSize),
      quantizedBytesPerWeight(quantization, queries),
      quantizedBytesPerWeight(quantization, ffnColumns, ffnGranule),
    ),
    embeddingBytesPerParam: plain,
    headBytesPerParam: quantizedBytesPerWeight('int8', embeddingSize),
  };
}

/** The model's shape as the planner sees it. */
export function planModel(model: ModelSpec): PlanModel {
  const { layers, hiddenSize, headGroups, queryHeadsPerGroup, headDim } = model;
  const { ffnColumns, ffnGranule, vocabRows } = model;
  return {
    layers,
    hiddenSize,
    headGroups,
    queryHeadsPerGroup,
    headDim,
    ffnColumns,
    ffnGranule,
    ffnMatrices: model.gatedMlp ? 3 : 2,
    vocabRows,
    ...weightBytesOf(model),
    kvBytesPerElement: bytesPerWeight(model.weightType),
  };
}

export const loanBlockTokensOf = (device: Pick<ProfiledDevice, 'loanBlockTokens'>) =>
  device.loanBlockTokens ?? loanBlockTokens;

/** Without what only deployments know of a device: the planner takes no field that it does not know. */
export function planDevices(devices: readonly ProfiledDevice[]): PlanInput['devices'] {
  return devices.map(({ hostMemoryBytes: _host, loanBlockTokens: _loans, ...device }) => device);
}

/** The planner's input from profiles. */
export function toPlanInput(
  model: ModelSpec,
  devices: readonly ProfiledDevice[],
  workload: PlanWorkload,
  policy: PlanPolicy,
): PlanInput {
  const blockTokens = Math.max(...devices.map(loanBlockTokensOf));
  return {
    model: planModel(model),
    workload,
    devices: planDevices(devices),
    policy,
    objective: deploymentObjective,
    ...(blockTokens === loanBlockTokens ? {} : { loanBlockTokens: blockTokens }),
  };
}
