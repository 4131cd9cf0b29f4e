/**
 * The only loader and the only declaration of the native addon. Types mirror native/binding/convert.cpp field by field: absent is
 * null, never undefined; arrays of token and block ids are Int32Array. Every failure is a NativeError.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { type ErrorCode, HelsError } from '../../proto/domain/errors.ts';
import type { SamplingParameters } from '../../proto/domain/generation.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';

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

export interface EngineOptions {
  threads: number;
  /** 0.01 to 1; below 1 each kernel's measured time is stretched by 1/speed. */
  speed: number;
  /** Budget for weights, KV and scratch; 0 = not limited. */
  memoryBytes: number;
  numerics: 'exact' | 'fast';
  kvBlockTokens: number;
  kvBlocks: number;
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
  returnLogits: boolean;
}

export interface StepBatch {
  sequences: SequenceStep[];
  collectiveDeadlineMs: number;
}

export interface SampledToken {
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
  collectiveSeconds: number;
  totalSeconds: number;
}

export interface EngineReport {
  weightBytesLoaded: number;
  weightBytesReplicated: number;
  weightBytesResident: number;
  kvBytes: number;
  scratchBytes: number;
  allReduceCount: number;
  allReduceBytes: number;
  /** Whether this rank loaded the byte of EngineOptions.corruption. */
  corrupted: boolean;
  /** Equal fingerprints promise equal bits. */
  fingerprint: string;
  gemmImplementation: string;
}

export interface ProfilePoint {
  prefill: boolean;
  tokens: number;
  /** Sum over the tokens of the context each attends to. */
  contextTokens: number;
  headGroups: number;
  ffnColumns: number;
  vocabRows: number;
}

export interface TensorDescription {
  name: string;
  file: string;
  type: ModelSpec['weightType'];
  shape: number[];
  sizeBytes: number;
}

export interface LoadRequest {
  directory: string;
  model: ModelSpec;
  shard: ShardSpec;
  options: EngineOptions;
}

/** Ranks of one process that sum among themselves; made by createLocalGroup, used up by one connectLocal per rank. */
export interface LocalGroup {
  readonly localGroup: unique symbol;
}

/** One engine on its own native thread. Commands run in the order given; after close() every one fails with `cancelled`. */
export interface Engine {
  /** Opens this rank's end of the collective on `hostname` and returns its address for the other ranks (opaque text). */
  openCollective(hostname: string): Promise<string>;
  /** Connects to the addresses of all ranks, in rank order. */
  connect(addresses: readonly string[], deadlineMs: number): Promise<void>;
  connectLocal(group: LocalGroup): Promise<void>;
  step(batch: StepBatch): Promise<StepResult>;
  report(): Promise<EngineReport>;
  /** Ends the running collective at once; it and later ones fail with `cancelled`. */
  abort(): void;
  /** Aborts, ends the thread, frees the memory. Idempotent. */
  close(): Promise<void>;
}

export interface NativeVersion {
  /** Of the GEMM library. */
  oneDnn: string;
  /** What this processor's f32 matrix products run on. */
  gemmImplementation: string;
  instructionSet: string;
}

interface NativeEngineObject {
  openCollective(hostname: string): Promise<string>;
  connect(addresses: readonly string[], deadlineMs: number): Promise<null>;
  connectLocal(group: LocalGroup): Promise<null>;
  step(batch: StepBatch): Promise<StepResult>;
  report(): Promise<EngineReport>;
  abort(): null;
  close(): Promise<null>;
}

interface NativeAddon {
  NativeEngine: { load(request: LoadRequest): Promise<NativeEngineObject> };
  createLocalGroup(ranks: number): LocalGroup;
  inspectModel(directory: string): Promise<TensorDescription[]>;
  profileStep(request: ProfileRequest): Promise<number>;
  version(): NativeVersion;
}

export interface ProfileRequest {
  model: ModelSpec;
  options: EngineOptions;
  point: ProfilePoint;
  repetitions: number;
}

const codeOfNative: Readonly<Record<string, ErrorCode>> = {
  'model-invalid': 'model-invalid',
  'shape-invalid': 'request-invalid',
  'memory-exceeded': 'memory-exceeded',
  'numeric-range': 'numeric-range',
  'peer-lost': 'worker-lost',
  'deadline-exceeded': 'deadline-exceeded',
  aborted: 'cancelled',
  internal: 'internal',
};

/** A failure of the addon; `nativeCode` is its name in native/base/error.h, which a StepError carries. */
export class NativeError extends HelsError {
  readonly nativeCode: string;

  constructor(nativeCode: string, message: string, cause: unknown) {
    super(codeOfNative[nativeCode] ?? 'internal', message, { cause });
    this.nativeCode = nativeCode;
  }
}

function toNativeError(error: unknown): HelsError {
  const { code, message } = error as { code?: unknown; message?: unknown };
  return new NativeError(typeof code === 'string' ? code : 'internal', String(message), error);
}

async function translated<Value>(body: () => Promise<Value>): Promise<Value> {
  try {
    return await body();
  } catch (error) {
    throw toNativeError(error);
  }
}

class AddonEngine implements Engine {
  readonly #object: NativeEngineObject;

  constructor(object: NativeEngineObject) {
    this.#object = object;
  }

  openCollective(hostname: string): Promise<string> {
    return translated(() => this.#object.openCollective(hostname));
  }

  async connect(addresses: readonly string[], deadlineMs: number): Promise<void> {
    await translated(() => this.#object.connect(addresses, deadlineMs));
  }

  async connectLocal(group: LocalGroup): Promise<void> {
    await translated(() => this.#object.connectLocal(group));
  }

  step(batch: StepBatch): Promise<StepResult> {
    return translated(() => this.#object.step(batch));
  }

  report(): Promise<EngineReport> {
    return translated(() => this.#object.report());
  }

  abort(): void {
    this.#object.abort();
  }

  async close(): Promise<void> {
    await translated(() => this.#object.close());
  }
}

let addon: NativeAddon | null = null;

/** The addon lies in native/build, in the source tree and beside dist/ alike. */
function loadAddon(): NativeAddon {
  if (addon !== null) return addon;
  const candidates = ['../../', '../../../'].map((root) =>
    fileURLToPath(new URL(`${root}native/build/Release/hels.node`, import.meta.url)),
  );
  const file = candidates.find((candidate) => existsSync(candidate));
  if (file === undefined) {
    throw new HelsError(
      'internal',
      `the native addon is not built (looked for ${candidates.join(' and ')}); run: make build`,
    );
  }
  addon = createRequire(import.meta.url)(file) as NativeAddon;
  return addon;
}

/** Loads this rank's slices and runs the self-check, on the engine's own thread. */
export async function loadEngine(request: LoadRequest): Promise<Engine> {
  const { NativeEngine } = loadAddon();
  return new AddonEngine(await translated(() => NativeEngine.load(request)));
}

export function createLocalGroup(ranks: number): LocalGroup {
  const native = loadAddon();
  try {
    return native.createLocalGroup(ranks);
  } catch (error) {
    throw toNativeError(error);
  }
}

/** Checks the directory's safetensors files and tells their tensors, in name order. */
export async function inspectModel(directory: string): Promise<TensorDescription[]> {
  const native = loadAddon();
  return translated(() => native.inspectModel(directory));
}

/** Seconds of one step at the point: median over the repetitions, all layers, collectives not included. Off the event loop. */
export async function profileStep(request: ProfileRequest): Promise<number> {
  const native = loadAddon();
  return translated(() => native.profileStep(request));
}

export function nativeVersion(): NativeVersion {
  return loadAddon().version();
}
