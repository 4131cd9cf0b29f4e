/** A model over several ranks in this process: what `verify` runs. One sequence at a time, prefilled in chunks, decoded greedily. */
import type { SamplingParameters } from '../../proto/domain/generation.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { EngineReport, SequenceStep, ShardSpec, StepResult } from '../binding/engine-types.ts';
import { createLocalGroup, type Engine, loadEngine } from '../binding/native.ts';

export interface LocalRanksOptions {
  directory: string;
  model: ModelSpec;
  shards: readonly ShardSpec[];
  /** Tokens of the longest sequence. */
  positionsMax: number;
  /** Tokens of one prefill step. */
  chunk: number;
  /** `byte` counts from the tensor's start. */
  corruption: { rank: number; tensor: string; byte: number } | null;
}

const kvBlockTokens = 16;
const collectiveDeadlineMs = 120_000;
const greedySampling: SamplingParameters = {
  temperature: 0,
  topP: 1,
  topK: 0,
  seed: 0,
  logprobs: -1,
};

export class LocalRanks {
  readonly #engines: Engine[];
  readonly #options: LocalRanksOptions;
  readonly #blockTable: Int32Array;

  private constructor(engines: Engine[], options: LocalRanksOptions) {
    this.#engines = engines;
    this.#options = options;
    this.#blockTable = Int32Array.from(
      { length: blocksFor(options.positionsMax) },
      (_, block) => block,
    );
  }

  /** Loads every rank and connects them; closes what was loaded when one fails. */
  static async start(options: LocalRanksOptions): Promise<LocalRanks> {
    const group = createLocalGroup(options.shards.length);
    const loads = await Promise.allSettled(options.shards.map((shard) => load(shard, options)));
    const engines = loads.flatMap((result) =>
      result.status === 'fulfilled' ? [result.value] : [],
    );
    const ranks = new LocalRanks(engines, options);
    try {
      for (const result of loads) if (result.status === 'rejected') throw result.reason;
      await Promise.all(engines.map((engine) => engine.connectLocal(group)));
      return ranks;
    } catch (error) {
      await ranks.close();
      throw error;
    }
  }

  /** Full-vocabulary logits of `tokens` from position `from` on: one row per position, computed chunk by chunk. */
  async logits(tokens: readonly number[], from: number): Promise<Float32Array[]> {
    const rows: Float32Array[] = [];
    for (const { begin, end } of this.#chunks(tokens.length)) {
      const returnLogits = end > from;
      const results = await this.#step({
        ...this.#part(tokens.slice(begin, end), begin, end),
        returnLogits,
      });
      if (!returnLogits) continue;
      const chunkRows = this.#assembleRows(results, end - begin);
      rows.push(...chunkRows.slice(Math.max(0, from - begin)));
    }
    return rows;
  }

  /** `count` greedy tokens after `prompt`; each decode step takes the token that the ranks sampled last. */
  async greedy(prompt: readonly number[], count: number): Promise<number[]> {
    const tokens: number[] = [];
    for (const { begin, end } of this.#chunks(prompt.length)) {
      const sampling = end === prompt.length ? greedySampling : null;
      const results = await this.#step({
        ...this.#part(prompt.slice(begin, end), begin, end),
        sampling,
      });
      if (sampling !== null) tokens.push(sampledToken(results));
    }
    while (tokens.length < count) {
      const position = prompt.length + tokens.length - 1;
      const results = await this.#step({
        ...this.#part([], position, position + 1),
        takeSampled: true,
        sampling: greedySampling,
      });
      tokens.push(sampledToken(results));
    }
    return tokens;
  }

  reports(): Promise<EngineReport[]> {
    return Promise.all(this.#engines.map((engine) => engine.report()));
  }

  async close(): Promise<void> {
    await Promise.all(this.#engines.map((engine) => engine.close()));
  }

  *#chunks(length: number): Generator<{ begin: number; end: number }> {
    for (let begin = 0; begin < length; begin += this.#options.chunk) {
      yield { begin, end: Math.min(begin + this.#options.chunk, length) };
    }
  }

  #part(tokens: readonly number[], begin: number, end: number): SequenceStep {
    return {
      slot: 0,
      takeSampled: false,
      tokens: Int32Array.from(tokens),
      startPosition: begin,
      blockTable: this.#blockTable.slice(0, blocksFor(end)),
      sampling: null,
      bannedTokens: new Int32Array(),
      returnLogits: false,
    };
  }

  /** A rank that fails aborts the others, which would wait for it; its own failure is the one thrown. */
  async #step(sequence: SequenceStep): Promise<StepResult[]> {
    const batch = { sequences: [sequence], collectiveDeadlineMs };
    let firstFailure: unknown = null;
    const results = await Promise.all(
      this.#engines.map((engine) =>
        engine.step(batch).catch((error: unknown) => {
          firstFailure ??= error;
          for (const other of this.#engines) other.abort();
          return null;
        }),
      ),
    );
    if (firstFailure !== null) throw firstFailure;
    return results.filter((result) => result !== null);
  }

  /** Each rank holds (count, its vocabulary rows); the ranks' ranges follow each other. */
  #assembleRows(results: readonly StepResult[], count: number): Float32Array[] {
    const { model, shards } = this.#options;
    return Array.from({ length: count }, (_, row) => {
      const full = new Float32Array(model.vocabRows);
      for (const [rank, result] of results.entries()) {
        const range = shards[rank]?.vocabRows ?? { begin: 0, end: 0 };
        const width = range.end - range.begin;
        full.set(result.logits.subarray(row * width, (row + 1) * width), range.begin);
      }
      return full;
    });
  }
}

function load(shard: ShardSpec, options: LocalRanksOptions): Promise<Engine> {
  const { directory, model, positionsMax, chunk, corruption } = options;
  const own = corruption !== null && corruption.rank === shard.rank;
  return loadEngine({
    directory,
    model,
    shard,
    options: {
      device: 'cpu',
      multiprocessors: 0,
      threads: 1,
      speed: 1,
      memoryBytes: 0,
      numerics: 'exact',
      kvBlockTokens,
      kvBlocks: blocksFor(positionsMax),
      stepTokensMax: chunk,
      sequencesMax: 1,
      corruption: own ? { tensor: corruption.tensor, byte: corruption.byte } : null,
    },
  });
}

function blocksFor(positions: number): number {
  return Math.ceil(positions / kvBlockTokens);
}

function sampledToken(results: readonly StepResult[]): number {
  const token = results[0]?.sampled[0]?.tokenId;
  if (token === undefined) throw new Error('a step with sampling returned no token');
  return token;
}
