/** What a client of the gRPC API sees. Plain data; ids and sizes in the units their names say. */
import type { DeployProgress__Output } from '../../proto/gen/hels/v1/DeployProgress.ts';
import type { GenerateDelta__Output } from '../../proto/gen/hels/v1/GenerateDelta.ts';
import type { GenerateFinished__Output } from '../../proto/gen/hels/v1/GenerateFinished.ts';
import type { GenerateStarted__Output } from '../../proto/gen/hels/v1/GenerateStarted.ts';
import type { PlanReport__Output } from '../../proto/gen/hels/v1/PlanReport.ts';
import type { ProfileReport__Output } from '../../proto/gen/hels/v1/ProfileReport.ts';
import type { Replan__Output } from '../../proto/gen/hels/v1/Replan.ts';
import type { ReplanProposal__Output } from '../../proto/gen/hels/v1/ReplanProposal.ts';
import type { Status__Output } from '../../proto/gen/hels/v1/Status.ts';

export type Status = Status__Output;
export type PlanReport = PlanReport__Output;
export type ProfileReport = ProfileReport__Output;

export interface ChatMessage {
  /** A developer is heard as the system. */
  role: 'system' | 'developer' | 'user' | 'assistant';
  content: string;
}

/** Text, token ids or a chat; exactly one. */
export type GenerateInput =
  | { prompt: string }
  | { promptTokenIds: number[] }
  | { messages: ChatMessage[] };

export interface GenerateOptions {
  model?: string;
  maxTokens?: number;
  /** So many before an end of text, a stop token or a stop text can end the answer; up to `maxTokens`, default 0. */
  minTokens?: number;
  /** 0 = greedy (default). */
  temperature?: number;
  topP?: number;
  topK?: number;
  /** Drawn by the controller when absent, and told in the first event. */
  seed?: number;
  stop?: string[];
  /** The answer ends with one of these tokens too; up to 64. */
  stopTokenIds?: number[];
  /** n = logprobs of the sampled token and of the n most likely ones. */
  logprobs?: number;
  ignoreEndOfText?: boolean;
  /** KV of equal beginnings is shared only between requests of one salt: a secret per tenant keeps tenants apart. */
  cacheSalt?: string;
  /** false: neither use KV of others nor leave own to them; default true. */
  prefixCache?: boolean;
  /** Lower values go first; -1000 to 1000, default 0. */
  priority?: number;
  /** Continue a stream that broke: the tokens already received and the seed of its first event. */
  resume?: { tokenIds: number[]; seed: number };
  /**
   * For how long a stream that broke after its first event tries to go on by itself, counted from the break or, while no token comes, the
   * first of several; default 60,000. 0: it throws.
   */
  resumeForMs?: number;
}

export type GenerateEvent =
  | ({ type: 'started' } & GenerateStarted__Output)
  | ({ type: 'delta' } & GenerateDelta__Output)
  | ({ type: 'finished' } & GenerateFinished__Output);

export interface DeployOptions {
  /** The model directory as controller and workers see it. */
  modelPath: string;
  modelId?: string;
  policy?: 'hels' | 'stepwise' | 'optimal' | 'compute' | 'memory' | 'equal';
  numerics?: 'exact' | 'fast';
  /** Of the weights, at load; default auto: as the files are. */
  quantization?: 'auto' | 'int8' | 'int4';
  /** Wait for this many workers before planning; default 1. */
  workersMin?: number;
  workersTimeoutMs?: number;
  workload?: {
    sequences?: number;
    contextTokens?: number;
    prefillChunk?: number;
    outputTokens?: number;
    /** KV may lie on another worker than its heads: a small device then does not cap the batch. Default false. */
    allowRemoteKv?: boolean;
  };
  /** A split given by hand instead of a policy: one of the two. */
  ranks?: { workerId: string; headGroups: number; ffnWeight: number }[];
  /** Default true. */
  prefixCache?: boolean;
  /** The controller plans anew by itself when the load or the devices change; default true. Never for a split given by hand. */
  autoReplan?: boolean;
  /** When KV runs out; default evict. The others are for comparison (docs/serving.md). */
  kvPolicy?: 'evict' | 'replay' | 'reserve' | 'slots';
}

/** What is to change; absent: as deployed. */
export interface ReplanOptions {
  policy?: NonNullable<DeployOptions['policy']>;
  workload?: NonNullable<DeployOptions['workload']>;
  /** A split given by hand instead of a policy. */
  ranks?: NonNullable<DeployOptions['ranks']>;
}

/** `replan` is null when the plan is as it was. */
export type ReplanEvent =
  | ({ type: 'proposal' } & ReplanProposal__Output)
  | ({ type: 'progress' } & DeployProgress__Output)
  | { type: 'done'; replan: Replan__Output | null; report: PlanReport };

/** `report` is null when the worker served nothing. */
export type DrainEvent =
  | Exclude<ReplanEvent, { type: 'done' }>
  | { type: 'done'; replan: Replan__Output | null; report: PlanReport | null };

export type DeployEvent =
  | ({ type: 'progress' } & DeployProgress__Output)
  | { type: 'ready'; report: PlanReport };

export interface ProfileOptions {
  /** The model directory as the controller sees it; default: the model being served. */
  modelPath?: string;
  /** Measure also what is stored. */
  refresh?: boolean;
}

export type ProfileEvent =
  | ({ type: 'progress' } & DeployProgress__Output)
  | { type: 'ready'; report: ProfileReport };

export interface CallOptions {
  /** Aborting cancels the call on the server too. */
  signal?: AbortSignal;
  /** The whole call, from 0 on; default 10 s for unary calls, none (Infinity) for streams. */
  deadlineMs?: number;
}
