/**
 * The only declaration of the native addon; addon-file.ts loads it. Types mirror native/binding/convert.cpp field by field: absent is
 * null, never undefined; arrays of token and block ids are Int32Array. Every failure is a NativeError.
 */
import { type ErrorCode, HelsError } from '../../proto/domain/errors.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import { requireAddon } from './addon-file.ts';
import type {
  EngineOptions,
  EngineReport,
  KvMigration,
  KvMigrationResult,
  ProbeLoad,
  Range,
  ShardSpec,
  StepBatch,
  StepResult,
} from './engine-types.ts';

interface ProfilePoint {
  prefill: boolean;
  tokens: number;
  /** Sum over the tokens of the context each attends to. */
  contextTokens: number;
  headGroups: number;
  ffnColumns: number;
  vocabRows: number;
  /** A mixed step: beside the decode tokens above, one prefill chunk of so many tokens that attend to so many; 0 = none. */
  chunkTokens: number;
  chunkContextTokens: number;
}

/** One rank's end of a collective that is formed to be measured, once, and then dropped. */
export interface CollectiveProbe {
  readonly address: string;
  /** Seconds of one step's collectives for each of load.tokens; all ranks at once. */
  measure(addresses: readonly string[], load: ProbeLoad, deadlineMs: number): Promise<number[]>;
  /** Ends a measurement, running or to come; it fails with `cancelled`. */
  abort(): void;
}

export interface TensorDescription {
  name: string;
  file: string;
  /** f32, bf16, f16, or the file's word for a type that only quantised weights have. */
  type: string;
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
  /**
   * Loads in place of what is there: of the same model files it takes over the weights of ranges that stay, and its KV for migrateKv. The
   * group of before is gone, and after a failure everything.
   */
  reload(request: LoadRequest): Promise<void>;
  /** Opens this rank's end of the collective on `hostname` and returns its address for the other ranks (opaque text). */
  openCollective(hostname: string): Promise<string>;
  /** Connects to the addresses of all ranks, in rank order. */
  connect(addresses: readonly string[], deadlineMs: number): Promise<void>;
  connectLocal(group: LocalGroup): Promise<void>;
  /** Between connecting and the first step: KV that a reload kept comes to the ranks that own its heads now; null frees it. */
  migrateKv(migration: KvMigration | null): Promise<KvMigrationResult>;
  step(batch: StepBatch): Promise<StepResult>;
  report(): Promise<EngineReport>;
  /** Ends the running collective, or the forming of its group, at once; it and later ones fail with `cancelled`. */
  abort(): void;
  /** Aborts, ends the thread, frees the memory. Idempotent. */
  close(): Promise<void>;
}

interface CudaDevice {
  index: number;
  name: string;
  /** 9.0 */
  computeCapability: string;
  multiprocessors: number;
  memoryBytes: number;
}

export interface CudaDevices {
  devices: CudaDevice[];
  /** Why there are none, in words. */
  reason: string | null;
  /** The newest CUDA that the driver knows. */
  driver: string | null;
  /** The CUDA of this build. */
  runtime: string | null;
  /** What its kernels are compiled for. */
  architectures: string | null;
}

/** A library that GPUs need: where it is, or why it is not there. */
export interface CudaLibrary {
  name: string;
  path: string | null;
  problem: string | null;
}

export interface NativeVersion {
  /** Of the GEMM library. */
  oneDnn: string;
  /** What this processor's f32 matrix products run on. */
  gemmImplementation: string;
  instructionSet: string;
}

/** What crosses the bridge has every field. */
const wholeOptions = (options: EngineOptions): Required<EngineOptions> => ({
  ...options,
  kvParkedBlocks: options.kvParkedBlocks ?? 0,
  kvDeviceBlocks: options.kvDeviceBlocks ?? null,
  kvLoans: options.kvLoans ?? [],
});
const wholeRequest = (request: LoadRequest): LoadRequest => ({
  ...request,
  options: wholeOptions(request.options),
});
const wholeBatch = (batch: StepBatch): Required<StepBatch> => ({
  ...batch,
  kvMoves: batch.kvMoves ?? [],
});

interface NativeEngineObject {
  reload(request: LoadRequest): Promise<unknown>;
  openCollective(hostname: string): Promise<string>;
  connect(addresses: readonly string[], deadlineMs: number): Promise<null>;
  connectLocal(group: LocalGroup): Promise<null>;
  migrateKv(migration: KvMigration | null): Promise<KvMigrationResult>;
  step(batch: StepBatch): Promise<StepResult>;
  report(): Promise<EngineReport>;
  abort(): null;
  close(): Promise<null>;
}

interface NativeProfiler {
  measure(point: ProfilePoint, repetitions: number, secondsMax: number): Promise<number>;
  close(): Promise<null>;
}

interface NativeCollectiveProbe {
  address(): string;
  measure(addresses: readonly string[], load: ProbeLoad, deadlineMs: number): Promise<number[]>;
  abort(): null;
}

interface NativeAddon {
  CollectiveProbe: {
    open(request: {
      rank: number;
      ranks: number;
      hostname: string;
    }): Promise<NativeCollectiveProbe>;
  };
  copyBandwidth(device: string): Promise<number>;
  NativeEngine: { load(request: LoadRequest): Promise<NativeEngineObject> };
  createLocalGroup(ranks: number): LocalGroup;
  inspectModel(directory: string): Promise<TensorDescription[]>;
  Quantizer: new (directory: string) => Quantizer;
  Profiler: new (request: { model: ModelSpec; options: EngineOptions }) => NativeProfiler;
  version(): NativeVersion;
  cudaDevices(): CudaDevices;
  cudaLibraries(): CudaLibrary[];
  cudaMemory(device: number): { freeBytes: number; totalBytes: number };
}

interface QuantizeRequest {
  tensor: string;
  shape: [rows: number, columns: number];
  rows: Range;
  /** none: the rows as bf16. */
  quantization: ModelSpec['quantization'];
  /** Columns whose groups are counted together. */
  granule: number;
}

/** A model's files, opened to be quantised tensor by tensor; bytes as they lie in files (docs/weight-format.md). */
export interface Quantizer {
  quantize(request: QuantizeRequest): Promise<{ values: Uint8Array; scales: Uint8Array }>;
  /** A tensor's bytes as they are. */
  copy(tensor: string): Promise<Uint8Array>;
}

/** Measures points of one model on this device, over buffers that it keeps between them. */
export interface Profiler {
  /**
   * Seconds of one step at the point, all layers, collectives not included: lower quartile over the repetitions, of which there are
   * fewer, but at least one, when they take longer than `secondsMax`. Off the event loop.
   */
  measure(point: ProfilePoint, repetitions: number, secondsMax: number): Promise<number>;
  /** Frees the buffers. */
  close(): Promise<void>;
}

const codeOfNative: Readonly<Record<string, ErrorCode>> = {
  'model-invalid': 'model-invalid',
  'shape-invalid': 'request-invalid',
  'memory-exceeded': 'memory-exceeded',
  'numeric-range': 'numeric-range',
  'peer-lost': 'worker-lost',
  'device-lost': 'worker-lost',
  'deadline-exceeded': 'deadline-exceeded',
  aborted: 'cancelled',
  'device-missing': 'config-invalid',
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

let deviceLost: (error: HelsError) => void = () => undefined;

/** `listener` hears of every error after which this process can use its device no more: what it computed later would be wrong. */
export function onDeviceLost(listener: (error: HelsError) => void): void {
  deviceLost = listener;
}

function toNativeError(error: unknown): HelsError {
  const { code, message } = error as { code?: unknown; message?: unknown };
  const name = typeof code === 'string' ? code : 'internal';
  const failure = new NativeError(name, String(message), error);
  if (name === 'device-lost') deviceLost(failure);
  return failure;
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

  async reload(request: LoadRequest): Promise<void> {
    await translated(() => this.#object.reload(wholeRequest(request)));
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

  migrateKv(migration: KvMigration | null): Promise<KvMigrationResult> {
    return translated(() => this.#object.migrateKv(migration));
  }

  step(batch: StepBatch): Promise<StepResult> {
    return translated(() => this.#object.step(wholeBatch(batch)));
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

const loadAddon = () => requireAddon() as NativeAddon;

/** Loads this rank's slices and runs the self-check, on the engine's own thread. */
export async function loadEngine(request: LoadRequest): Promise<Engine> {
  const { NativeEngine } = loadAddon();
  return new AddonEngine(await translated(() => NativeEngine.load(wholeRequest(request))));
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

/** Throws model-invalid for files that inspectModel refuses. */
export function openQuantizer(directory: string): Quantizer {
  const native = loadAddon();
  let quantizer: Quantizer;
  try {
    quantizer = new native.Quantizer(directory);
  } catch (error) {
    throw toNativeError(error);
  }
  return {
    quantize: (request) => translated(() => quantizer.quantize(request)),
    copy: (tensor) => translated(() => quantizer.copy(tensor)),
  };
}

/** Opens rank `rank`'s end of a collective of `ranks` on `hostname`. */
export async function openProbe(
  rank: number,
  ranks: number,
  hostname: string,
): Promise<CollectiveProbe> {
  const { CollectiveProbe } = loadAddon();
  const probe = await translated(() => CollectiveProbe.open({ rank, ranks, hostname }));
  return {
    address: probe.address(),
    measure: (addresses, load, deadlineMs) =>
      translated(() => probe.measure(addresses, load, deadlineMs)),
    abort: () => void probe.abort(),
  };
}

/** Bytes a second between the memory of a device, as the engine calls it, and its host's: of a CPU those that one thread copies. */
export async function copyBandwidth(device: string): Promise<number> {
  const native = loadAddon();
  return translated(() => native.copyBandwidth(device));
}

/** Of `options`: threads, speed, numerics, kvBlockTokens; memoryBytes bounds the buffers. */
export function openProfiler(model: ModelSpec, options: EngineOptions): Profiler {
  const native = loadAddon();
  let profiler: NativeProfiler;
  try {
    profiler = new native.Profiler({ model, options: wholeOptions(options) });
  } catch (error) {
    throw toNativeError(error);
  }
  return {
    measure: (point, repetitions, secondsMax) =>
      translated(() => profiler.measure(point, repetitions, secondsMax)),
    close: async () => {
      await translated(() => profiler.close());
    },
  };
}

export function nativeVersion(): NativeVersion {
  return loadAddon().version();
}

export function cudaDevices(): CudaDevices {
  return loadAddon().cudaDevices();
}

/** Opens them; none in a build without CUDA. */
export function cudaLibraries(): CudaLibrary[] {
  return loadAddon().cudaLibraries();
}

/** Memory of a GPU, now; what other processes hold of it is not free. Starts the device, which takes a second the first time. */
export function cudaMemory(device: number): { freeBytes: number; totalBytes: number } {
  const native = loadAddon();
  try {
    return native.cudaMemory(device);
  } catch (error) {
    throw toNativeError(error);
  }
}
