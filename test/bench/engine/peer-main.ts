/** llama.cpp as a contender, through node-llama-cpp: `peer-main.ts INSTALL_DIRECTORY`. */
import { rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promptOf } from '../../../client/helsctl/request-load.ts';
import { serveCalls } from './contender-process.ts';
import type { PeerContext, PeerModel, PeerModule, PeerSampler } from './peer-api.ts';

const installDirectory = process.argv[2] ?? '';
const batchTokensMax = 512;

let model: PeerModel | null = null;
let context: PeerContext | null = null;
let sampler: PeerSampler | null = null;

function opened(): PeerContext {
  if (context === null) throw new Error('no context is open');
  return context;
}

async function contextOf(sequences: number, contextTokens: number, threads: number) {
  if (model === null) throw new Error('no model is loaded');
  const made = await model.createContext({
    sequences,
    contextSize: contextTokens,
    batchSize: batchTokensMax,
    threads: { ideal: threads, min: threads },
  });
  if (made._ctx.getThreads() !== threads) {
    throw new Error(`llama.cpp took ${made._ctx.getThreads()} threads, not ${threads}`);
  }
  return made;
}

async function decodeStep(batch: number, position: number): Promise<void> {
  const { _ctx } = opened();
  _ctx.initBatch(batch);
  for (let sequence = 0; sequence < batch; sequence += 1) {
    const token = 300 + ((7 * position + 31 * sequence) % 700);
    _ctx.addToBatch(sequence, position, Uint32Array.of(token), Uint32Array.of(0));
  }
  await _ctx.decodeBatch();
}

/** Logits of the last token only; resolves to their index. */
async function prefillStep(sequence: number, tokens: readonly number[]): Promise<number> {
  const { _ctx } = opened();
  _ctx.initBatch(tokens.length);
  const last = Uint32Array.of(tokens.length - 1);
  const [index] = _ctx.addToBatch(sequence, 0, Uint32Array.from(tokens), last);
  await _ctx.decodeBatch();
  return index ?? 0;
}

async function secondsOf(body: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await body();
  return (performance.now() - startMs) / 1000;
}

interface Serve {
  streams: number;
  promptTokens: number;
  outputTokens: number;
}

serveCalls({
  /** Seconds, with the library's own. */
  async load({ file }: { file: string }) {
    const entry = join(installDirectory, 'node_modules/node-llama-cpp/dist/index.js');
    const { getLlama } = (await import(pathToFileURL(entry).href)) as PeerModule;
    return secondsOf(async () => {
      const llama = await getLlama({
        gpu: false,
        build: 'never',
        skipDownload: true,
        logLevel: 'error',
        maxThreads: cpus().length,
      });
      model = await llama.loadModel({ modelPath: file, gpuLayers: 0 });
      sampler = new llama._bindings.AddonSampler(model._model);
      sampler.applyConfig({ temperature: 0 });
    });
  },
  async open(options: { sequences: number; contextTokens: number; threads: number }) {
    await context?.dispose();
    context = await contextOf(options.sequences, options.contextTokens, options.threads);
  },
  /** Gives every sequence `tokens` positions of KV: computed once, then copied. */
  async fill({ sequences, tokens: count }: { sequences: number; tokens: number }) {
    const { _ctx } = opened();
    const file = join(tmpdir(), `hels-bench-kv-${process.pid}`);
    _ctx.removeTokenCellsFromSequence(0, 0, -1);
    const tokens = promptOf(count, 0);
    await prefillStep(0, tokens);
    try {
      await _ctx.saveSequenceStateToFile(file, 0, Uint32Array.from(tokens));
      for (let sequence = 1; sequence < sequences; sequence += 1) {
        await _ctx.loadSequenceStateFromFile(file, sequence, count);
      }
    } finally {
      rmSync(file, { force: true });
    }
  },
  /** Seconds of `tokens` tokens in one step of sequence `sequence`, which is empty before and after. */
  async prefill({ tokens, sequence }: { tokens: number; sequence: number }) {
    const seconds = await secondsOf(() => prefillStep(sequence, promptOf(tokens, sequence)));
    opened()._ctx.removeTokenCellsFromSequence(sequence, 0, -1);
    return seconds;
  },
  /** Seconds per step; the logits are computed, nothing is sampled. */
  async decode({
    batch,
    steps,
    context: begin,
  }: {
    batch: number;
    steps: number;
    context: number;
  }) {
    const { _ctx } = opened();
    for (let sequence = 0; sequence < batch; sequence += 1) {
      _ctx.removeTokenCellsFromSequence(sequence, begin, -1);
    }
    const seconds = await secondsOf(async () => {
      for (let step = 0; step < steps; step += 1) await decodeStep(batch, begin + step);
    });
    return seconds / steps;
  },
  /** Probabilities of the token after `tokens`, by id. */
  async probabilities({ tokens }: { tokens: number[] }) {
    if (sampler === null) throw new Error('no model is loaded');
    const { _ctx } = opened();
    const index = await prefillStep(0, tokens);
    const [, pairs] = await _ctx.sampleToken(index, sampler, true, false);
    _ctx.removeTokenCellsFromSequence(0, 0, -1);
    const probabilities: number[] = [];
    for (let place = 0; place < pairs.length; place += 2) {
      probabilities[pairs[place] ?? 0] = pairs[place + 1] ?? 0;
    }
    return probabilities;
  },
  /** Tokens a second of `streams` loops of node-llama-cpp's evaluate(), which puts them into common batches. */
  async serve({ streams, promptTokens, outputTokens }: Serve) {
    const seconds = await secondsOf(() =>
      Promise.all(
        Array.from({ length: streams }, async (_, stream) => {
          const sequence = opened().getSequence();
          const tokens = promptOf(promptTokens, stream);
          await firstTokens(sequence.evaluate(tokens, greedy), outputTokens);
          sequence.dispose();
        }),
      ),
    );
    return (streams * outputTokens) / seconds;
  },
});

const greedy = { temperature: 0, yieldEogToken: true };

/** Throws when there are fewer. */
async function firstTokens(tokens: AsyncGenerator<number, unknown>, count: number) {
  const taken: number[] = [];
  for await (const token of tokens) {
    taken.push(token);
    if (taken.length === count) break;
  }
  if (taken.length < count) throw new Error(`an answer of ${count} tokens had ${taken.length}`);
  return taken;
}
