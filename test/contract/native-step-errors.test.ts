/** What the addon says of a step that it refuses or cannot compute: whose fault it is, and that the engine goes on after a refusal. */
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import type { StepBatch } from '../../worker/binding/engine-types.ts';
import { type Engine, loadEngine, NativeError } from '../../worker/binding/native.ts';
import { stepErrorOf } from '../../worker/daemon/wire.ts';
import { bundledModel } from '../support/daemons.ts';
import { readSafetensors, writeSafetensors } from '../support/safetensors.ts';

const config = JSON.parse(readFileSync(join(bundledModel, 'config.json'), 'utf8'));
const model = modelSpecFromConfig(config);

let engine: Engine | null = null;
afterEach(async () => {
  await engine?.close();
  engine = null;
});

async function engineOf(directory = bundledModel): Promise<Engine> {
  engine = await loadEngine({
    directory,
    model,
    shard: {
      rank: 0,
      ranks: 1,
      headGroups: { begin: 0, end: model.headGroups },
      ffnColumns: { begin: 0, end: model.ffnColumns },
      vocabRows: { begin: 0, end: model.vocabRows },
    },
    options: {
      device: 'cpu',
      multiprocessors: 0,
      threads: 1,
      speed: 1,
      memoryBytes: 0,
      numerics: 'exact',
      kvBlockTokens: 16,
      kvBlocks: 4,
      stepTokensMax: 64,
      sequencesMax: 8,
      corruption: null,
    },
  });
  return engine;
}

const sequenceOf = (slot: number, token: number, topP = 1): StepBatch['sequences'][number] => ({
  slot,
  takeSampled: false,
  tokens: Int32Array.of(token),
  startPosition: 0,
  blockTable: Int32Array.of(slot % 4),
  sampling: { temperature: 1, topP, topK: 0, seed: 1, logprobs: -1 },
  bannedTokens: new Int32Array(),
  returnLogits: false,
});

const batchOf = (...sequences: StepBatch['sequences']): StepBatch => ({
  collectiveDeadlineMs: 1000,
  sequences,
});

async function errorOf(running: Engine, batch: StepBatch) {
  const failure = await running.step(batch).then(
    () => null,
    (error: unknown) => error,
  );
  expect(failure).toBeInstanceOf(NativeError);
  return stepErrorOf(failure, batch);
}

it('refuses a step by the slot of the sequence that does not fit, and goes on', async () => {
  const running = await engineOf();
  const good = sequenceOf(3, 7);
  for (const [bad, message] of [
    [sequenceOf(6, 7, 0), 'topP is 0'],
    [sequenceOf(6, model.vocabRows), `token is ${model.vocabRows}`],
    [{ ...sequenceOf(6, 7), takeSampled: true, tokens: new Int32Array() }, 'nothing was sampled'],
  ] as const) {
    const error = await errorOf(running, batchOf(good, bad));
    expect(error).toMatchObject({ code: 'shape-invalid', slot: 6 });
    expect(error.message).toContain(message);
  }
  expect((await running.step(batchOf(good))).sampled).toHaveLength(1);
});

it('names nobody where the whole step does not fit', async () => {
  const running = await engineOf();
  const error = await errorOf(running, { ...batchOf(), kvMoves: [{ from: 9, to: 1 }] });
  expect(error.code).toBe('shape-invalid');
  expect(error.slot).toBeUndefined();
});

it('names the slot of the sequence that leaves the range of numbers', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'hels-nan-'));
  try {
    cpSync(bundledModel, directory, { recursive: true });
    const file = join(directory, 'model.safetensors');
    const tensors = readSafetensors(file);
    const embedding = tensors.get('model.embed_tokens.weight');
    if (embedding === undefined) throw new Error('no embedding');
    const rowBytes = embedding.data.length / model.vocabRows;
    // All bits set are NaN, in any type.
    embedding.data.fill(0xff, 500 * rowBytes, 501 * rowBytes);
    writeSafetensors(file, tensors);
    const running = await engineOf(directory);
    const error = await errorOf(running, batchOf(sequenceOf(3, 7), sequenceOf(6, 500)));
    expect(error).toMatchObject({ code: 'numeric-range', slot: 6 });
  } finally {
    rmSync(directory, { recursive: true });
  }
});

it('names the slot of a logit that leaves it', () => {
  const message =
    'the logit of token 17 on rank 1 is inf for slot 5 at position 2: the model overflows';
  const error = new NativeError('numeric-range', message, null);
  expect(stepErrorOf(error, batchOf(sequenceOf(5, 1)))).toMatchObject({ slot: 5 });
});
