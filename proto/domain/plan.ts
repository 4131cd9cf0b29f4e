/** The planner's language: the contract of `helsctl plan --input` (design section 6). Seconds, bytes, half-open ranges. */

/** One latency line; coefficients >= 0, absent = 0. All in seconds for all layers. */
export interface LatencyLine {
  constant?: number;
  perHeadGroup?: number;
  perFfnColumn?: number;
  perVocabRow?: number;
  perTokenHeadGroup?: number;
  perTokenFfnColumn?: number;
  perTokenVocabRow?: number;
  perContextHeadGroup?: number;
}

/** Seconds of a step's sums: constant + (perToken + perTokenRing * 2*(n - 1)/n) * T, of n devices that take part. */
export interface LinkLine {
  constant: number;
  perToken: number;
  /** What a ring pays by the number of devices in the plan; only with the lockstep objective. Absent = 0. */
  perTokenRing?: number;
}

/**
 * Where eviction is allowed, moving KV is priced by the first: a token of one head group, one way. The others are taken and checked as the
 * contract says, no plan depends on them (decision 10). A served group measures what restoring costs.
 */
interface RestoreCosts {
  reloadSecondsPerTokenHeadGroup?: number;
  hiddenSecondsPerToken?: number;
  hiddenSecondsPerTokenHeadGroup?: number;
}

export interface PlanDevice {
  id: string;
  memoryBytes: number;
  reservedBytes: number;
  /** The latency is the maximum over one to four lines. */
  decode: LatencyLine | LatencyLine[];
  prefill: LatencyLine | LatencyLine[];
  link?: LinkLine;
  /** By which exchanges about KV on other ranks are priced where they do not go the way of sums; absent: `link`. */
  exchangeLink?: LinkLine;
  restore?: RestoreCosts;
}

/** The model's shape as the planner sees it. */
export interface PlanModel {
  layers: number;
  hiddenSize: number;
  headGroups: number;
  queryHeadsPerGroup: number;
  headDim: number;
  ffnColumns: number;
  ffnGranule: number;
  /** Matrices of the MLP: 3 gated, 2 otherwise. */
  ffnMatrices: number;
  vocabRows: number;
  /** Of the layers, and of the rest unless said below. */
  weightBytesPerParam: number;
  /** Of the token embedding, which every used device holds. */
  embeddingBytesPerParam?: number;
  /** Of the output matrix. */
  headBytesPerParam?: number;
  kvBytesPerElement: number;
}

export interface PlanWorkload {
  sequences: number;
  contextTokens: number;
  prefillChunk: number;
  outputTokens: number;
  allowEviction?: boolean;
  /** KV may lie on another rank than its heads, which then attends for them; only with the lockstep objective. */
  allowRemoteKv?: boolean;
  /** Latency target: the plan then reports the largest batch whose decode step takes at most this long. */
  stepSecondsMax?: number;
  /** Throughput target: the plan then reports the smallest batch that generates at least as many tokens a second. */
  tokensPerSecondMin?: number;
}

export const planPolicies = ['hels', 'stepwise', 'optimal', 'compute', 'memory', 'equal'] as const;
export type PlanPolicy = (typeof planPolicies)[number];

/** step: the slowest rank's seconds (design section 6). lockstep: the ranks also wait for each other within every layer. */
export const planObjectives = ['step', 'lockstep'] as const;
type PlanObjective = (typeof planObjectives)[number];

export interface PlanInput {
  model: PlanModel;
  workload: PlanWorkload;
  devices: PlanDevice[];
  /** Default of devices without one. */
  link?: LinkLine;
  policy?: PlanPolicy;
  objective?: PlanObjective;
  /** Positions of a block of KV on another rank: 64 of processors, which is the default, 256 of GPUs. */
  loanBlockTokens?: number;
}

export type HalfOpenRange = readonly [begin: number, end: number];

export interface PlannedRank {
  device: string;
  headGroups: HalfOpenRange;
  ffnColumns: HalfOpenRange;
  vocabRows: HalfOpenRange;
  weightBytes: number;
  kvBytes: number;
  /** On the device; of a rank without heads, which limits nothing, what the group holds. */
  kvTokens: number;
  kvShare: number;
}

/** Devices by id; tokens in the order in which they are used. */
export interface PlannedLoan {
  owner: string;
  holder: string;
  tokens: HalfOpenRange;
}

/** A batch at the workload's context, with all its KV resident. */
export interface PlannedBatch {
  sequences: number;
  decodeSeconds: number;
  /** sequences / decodeSeconds */
  tokensPerSecond: number;
}

/** What becomes of the workload's targets; null: no batch meets the target. */
export interface PlanTargets {
  stepSecondsMax?: { value: number; largestBatch: PlannedBatch | null };
  tokensPerSecondMin?: { value: number; smallestBatch: PlannedBatch | null };
}

export interface PlanOutput {
  policy: PlanPolicy;
  feasible: boolean;
  /** When not feasible: the constraint that fails and the bytes or heads that lack, for a person. */
  reason?: string;
  /** Only devices that are used, in the order of the input. */
  ranks: PlannedRank[];
  predicted: {
    decodeSeconds: number;
    prefillSeconds: number;
    /** Decode seconds of each rank, link included, in the order of `ranks`. */
    perRankSeconds: number[];
    kvTokensTotal: number;
    bindingConstraint: 'compute' | 'memory' | 'kv' | 'link' | 'granularity';
  };
  solver: { iterations: number; milliseconds: number };
  /** Only when the workload allows remote KV: tokens, of those that the group holds, that lie on the holder for the owner's heads. */
  kvLoans?: PlannedLoan[];
  /** Only when the workload allows eviction and its moves have a price: sequences whose KV is resident at once, and the moves' seconds in decodeSeconds on the rank where they take longest. */
  eviction?: { residentSequences: number; moveSeconds: number };
  /** Only when the workload names a target. */
  targets?: PlanTargets;
  /** Only when the input has fields that no plan depends on: which, and why. */
  warnings?: string[];
}
