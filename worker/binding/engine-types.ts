// What crosses the bridge to an engine, as native/engine/engine.h has it.
import type { SamplingParameters } from '../../proto/domain/generation.ts';

export interface Range {
  begin: number;
  end: number;
}

/** One rank's share; half-open ranges, empty ones are legal. */
export interface ShardSpec {
  rank: number;
  ranks: number;
  headGroups: Range;
  ffnColumns: Range;
  vocabRows: Range;
}

/** KV of the owner's head groups at these addresses lies on the holder, which attends for the owner. */
export interface KvLoan {
  owner: number;
  holder: number;
  blocks: Range;
  headGroups: Range;
}

export interface EngineOptions {
  /** cpu, or cuda:N for GPU N of this process. */
  device: string;
  /** Of a GPU, when the rank is to use fewer than it has (a partition); 0 = all. */
  multiprocessors: number;
  threads: number;
  /** 0.01 to 1; below 1 each kernel's measured time is stretched by 1/speed. */
  speed: number;
  /** Budget for weights, KV and scratch; 0 = not limited. */
  memoryBytes: number;
  numerics: 'exact' | 'fast';
  kvBlockTokens: number;
  /** Addresses that sequences run from, [0, kvBlocks). */
  kvBlocks: number;
  /** Addresses from kvBlocks on that only moves reach; left out = 0. */
  kvParkedBlocks?: number;
  /** Addresses that lie on this rank's device; null or left out = kvBlocks. Later parked ones lie in host memory. */
  kvDeviceBlocks?: number | null;
  /** Of all ranks; left out = none. kvBlockTokens is a multiple of 64 then. */
  kvLoans?: readonly KvLoan[];
  /** Tokens of one step, all sequences together. */
  stepTokensMax: number;
  /** Slots. */
  sequencesMax: number;
  /** Flips the bits of one byte of a tensor as this rank loads it; null in service. */
  corruption: { tensor: string; byte: number } | null;
}

export interface SequenceStep {
  slot: number;
  /** The one input token is the one last sampled for the slot; `tokens` is empty then. */
  takeSampled: boolean;
  tokens: Int32Array;
  startPosition: number;
  /** Covers positions [0, startPosition + count). */
  blockTable: Int32Array;
  /** null: no token is sampled. */
  sampling: SamplingParameters | null;
  /** None of these is sampled. */
  bannedTokens: Int32Array;
  returnLogits: boolean;
}

/** The KV of all heads at address `from` is copied to address `to`. */
interface KvMove {
  from: number;
  to: number;
}

export interface StepBatch {
  /** May be empty when there are moves. */
  sequences: SequenceStep[];
  /** Done before anything is computed; no address twice. Left out = none. */
  kvMoves?: readonly KvMove[];
  collectiveDeadlineMs: number;
}

interface SampledToken {
  slot: number;
  tokenId: number;
  /** 0 unless logprobs were asked for. */
  logprob: number;
  topLogprobs: { tokenId: number; logprob: number }[];
}

export interface StepResult {
  sampled: SampledToken[];
  /** (tokens with returnLogits in batch order, vocabulary rows of this rank) */
  logits: Float32Array<ArrayBuffer>;
  computeSeconds: number;
  /** Sums, waiting for peers included. */
  collectiveSeconds: number;
  /** KV moves, waiting for peers included. */
  moveSeconds: number;
  /** Exchanges of remote attention, waiting for peers included. */
  remoteSeconds: number;
  /** All of these. */
  totalSeconds: number;
}

/** How KV of the plan before comes to the ranks that own its heads now; every rank is told the same. */
export interface KvMigration {
  /** By rank: the head groups whose KV it kept; empty: none. */
  previousHeadGroups: readonly Range[];
  /** By rank, now. */
  headGroups: readonly Range[];
  /** Of the plan before, by the numbers of the ranks now. */
  previousLoans: readonly KvLoan[];
  /** Runnable addresses in use, ascending and apart. */
  blocks: readonly Range[];
  /** Parked blocks in use, from an address of the plan before to one of the next. */
  parked: readonly KvMove[];
  /** Of each exchange. */
  deadlineMs: number;
}

export interface KvMigrationResult {
  seconds: number;
  /** From other ranks. */
  bytesReceived: number;
}

export interface EngineReport {
  weightBytesLoaded: number;
  /** Of the files, but taken over from the engine before without reading them. */
  weightBytesAdopted: number;
  weightBytesReplicated: number;
  weightBytesResident: number;
  /** KV of this rank's heads on its device. */
  kvBytes: number;
  /** KV of this rank's heads in host memory. */
  kvHostBytes: number;
  /** KV that lies here for the heads of other ranks. */
  kvLoanBytes: number;
  scratchBytes: number;
  /** KV of the engine before is here, for migrateKv. */
  kvKept: boolean;
  /** And all that it held for other ranks. */
  kvLoansKept: boolean;
  /** Of the device's memory, taken now by all of these; KV that was never used takes none. */
  residentBytes: number;
  allReduceCount: number;
  allReduceBytes: number;
  exchangeCount: number;
  /** Sent and received. */
  exchangeBytes: number;
  moveSeconds: number;
  remoteSeconds: number;
  /** Whether this rank loaded the byte of EngineOptions.corruption. */
  corrupted: boolean;
  /** Equal fingerprints promise equal bits. */
  fingerprint: string;
  gemmImplementation: string;
  /** How the ranks reach each other; empty without a group. */
  transport: string;
}

/** The sums of forward steps: `sums` of tokens * hiddenSize int64 values each, and one that agrees on the sampled tokens. */
export interface ProbeLoad {
  tokens: number[];
  hiddenSize: number;
  sums: number;
  repetitions: number;
  budgetMs: number;
}
