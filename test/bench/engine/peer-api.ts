/** What the benchmark uses of node-llama-cpp 3.21.1, which is not installed with Hels and so has no types here. */

export interface PeerSampler {
  applyConfig(options: { temperature: number }): void;
}

/** llama.cpp's own context: several sequences in one batch. */
interface LowLevelContext {
  initBatch(size: number): void;
  /** Positions from `firstPosition` on; logits are made for the tokens at `logitIndexes`. */
  addToBatch(
    sequence: number,
    firstPosition: number,
    tokens: Uint32Array,
    logitIndexes: Uint32Array,
  ): Uint32Array;
  decodeBatch(): Promise<void>;
  /** `end` -1: to the last. */
  removeTokenCellsFromSequence(sequence: number, begin: number, end: number): boolean;
  saveSequenceStateToFile(file: string, sequence: number, tokens: Uint32Array): Promise<number>;
  loadSequenceStateFromFile(file: string, sequence: number, tokensMax: number): Promise<unknown>;
  /** With probabilities: the token, and pairs of token and probability of the whole vocabulary. */
  sampleToken(
    logitIndex: number,
    sampler: PeerSampler,
    probabilities: true,
    confidence: false,
  ): Promise<[token: number, probabilities: number[]]>;
  getThreads(): number;
}

interface PeerSequence {
  evaluate(
    tokens: readonly number[],
    options: { temperature: number; yieldEogToken: boolean },
  ): AsyncGenerator<number, unknown>;
  dispose(): void;
}

export interface PeerContext {
  getSequence(): PeerSequence;
  dispose(): Promise<void>;
  readonly _ctx: LowLevelContext;
}

export interface PeerModel {
  readonly _model: unknown;
  createContext(options: {
    sequences: number;
    /** Per sequence. */
    contextSize: number;
    batchSize: number;
    threads: { ideal: number; min: number };
  }): Promise<PeerContext>;
}

interface Llama {
  readonly _bindings: { AddonSampler: new (model: unknown) => PeerSampler };
  loadModel(options: { modelPath: string; gpuLayers: 0 }): Promise<PeerModel>;
}

export interface PeerModule {
  getLlama(options: {
    gpu: false;
    build: 'never';
    skipDownload: true;
    logLevel: 'error';
    maxThreads: number;
  }): Promise<Llama>;
}
