/** Our engine as a contender: the addon as the worker uses it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { modelSpecFromConfig } from '../../../proto/domain/model-config.ts';
import type { QuantizationOption } from '../../../proto/domain/quantization.ts';
import type { EngineReport, SequenceStep } from '../../../worker/binding/engine-types.ts';
import { type Engine, loadEngine } from '../../../worker/binding/native.ts';
import { splitModel } from '../../../worker/tools/split.ts';
import { serveCalls } from './contender-process.ts';

interface Load {
  directory: string;
  threads: number;
  numerics: 'exact' | 'fast';
  /** auto: as the files are. */
  quantization: QuantizationOption;
  rank: number;
  ranks: number;
  sequences: number;
  /** Per sequence. */
  contextTokens: number;
}

const kvBlockTokens = 16;
const stepTokensMax = 256;
const collectiveDeadlineMs = 120_000;
const greedySampling = { temperature: 0, topP: 1, topK: 0, seed: 0, logprobs: -1 };

let engine: Engine | null = null;
let blocksPerSequence = 0;
let vocabRows = 0;

function loaded(): Engine {
  if (engine === null) throw new Error('no model is loaded');
  return engine;
}

/** Blocks of a sequence are its own and follow each other. */
function part(slot: number, tokens: readonly number[], startPosition: number): SequenceStep {
  const blocks = Math.ceil((startPosition + tokens.length) / kvBlockTokens);
  return {
    slot,
    takeSampled: false,
    tokens: Int32Array.from(tokens),
    startPosition,
    blockTable: Int32Array.from({ length: blocks }, (_, block) => slot * blocksPerSequence + block),
    sampling: greedySampling,
    bannedTokens: new Int32Array(),
    returnLogits: false,
  };
}

/** One token per sequence. Resolves to the tokens sampled. */
async function decodeStep(batch: number, position: number): Promise<number[]> {
  const sequences = Array.from({ length: batch }, (_, slot) =>
    part(slot, [(300 + 7 * position + 31 * slot) % vocabRows], position),
  );
  const { sampled } = await loaded().step({ sequences, collectiveDeadlineMs });
  return sampled.map(({ tokenId }) => tokenId);
}

async function secondsOf(body: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await body();
  return (performance.now() - startMs) / 1000;
}

serveCalls({
  async load(load: Load) {
    const { directory, threads, numerics, rank, ranks, sequences, contextTokens } = load;
    const config: unknown = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8'));
    const model = modelSpecFromConfig(config, { quantization: load.quantization });
    const share = { headGroups: model.headGroups / ranks, ffnWeight: 1 };
    const shares = Array.from({ length: ranks }, () => share);
    const shard = splitModel(model, shares)[rank];
    if (shard === undefined) throw new Error(`there is no rank ${rank}`);
    blocksPerSequence = Math.ceil(contextTokens / kvBlockTokens);
    vocabRows = model.vocabRows;
    return secondsOf(async () => {
      engine = await loadEngine({
        directory,
        model,
        shard,
        options: {
          device: 'cpu',
          multiprocessors: 0,
          threads,
          speed: 1,
          memoryBytes: 0,
          numerics,
          kvBlockTokens,
          kvBlocks: sequences * blocksPerSequence,
          stepTokensMax,
          sequencesMax: sequences,
          corruption: null,
        },
      });
    });
  },
  report: (): Promise<EngineReport> => loaded().report(),
  openCollective: () => loaded().openCollective('127.0.0.1'),
  connect: (addresses: string[]) => loaded().connect(addresses, collectiveDeadlineMs),
  /** Writes to every page of the KV of `tokens` positions: memory never written is one page, always cached. */
  async fill({ sequences, tokens }: { sequences: number; tokens: number }) {
    for (let position = 0; position < tokens; position += kvBlockTokens) {
      await decodeStep(sequences, position);
    }
  },
  /** Seconds of `tokens` tokens of one sequence in one step. */
  prefill: ({ tokens }: { tokens: number }) => {
    const prompt = Array.from({ length: tokens }, (_, index) => (300 + 7 * index) % vocabRows);
    return secondsOf(() =>
      loaded().step({ sequences: [part(0, prompt, 0)], collectiveDeadlineMs }),
    );
  },
  /** Seconds per step. */
  async decode({ batch, steps, context }: { batch: number; steps: number; context: number }) {
    const seconds = await secondsOf(async () => {
      for (let step = 0; step < steps; step += 1) await decodeStep(batch, context + step);
    });
    return seconds / steps;
  },
  /** Of the token after `tokens`, by id. */
  async logits({ tokens }: { tokens: number[] }) {
    const sequences = [{ ...part(0, tokens, 0), returnLogits: true }];
    const { logits } = await loaded().step({ sequences, collectiveDeadlineMs });
    return [...logits.subarray(-vocabRows)];
  },
});
