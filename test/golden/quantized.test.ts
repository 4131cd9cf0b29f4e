/** Quantised models: one hash for every split, batch and way to quantise; the answers of the values that the files stand for; a bounded error. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { quantizationConfig } from '../../proto/domain/quantization.ts';
import { inspectModel } from '../../worker/binding/native.ts';
import { inspectDirectory } from '../../worker/tools/inspect.ts';
import { quantizeModel } from '../../worker/tools/quantize.ts';
import {
  editConfig,
  type GoldenModel,
  ScratchModels,
  shortGolden,
} from '../support/golden-models.ts';
import { dequantizedTensors } from '../support/quantized-weights.ts';
import { readSafetensors, tensorBytes, writeSafetensors } from '../support/safetensors.ts';
import { verify } from '../support/verify.ts';

const scratch = new ScratchModels();
afterAll(() => scratch.remove());

async function quantized(model: GoldenModel, bits: 8 | 4): Promise<GoldenModel> {
  const target = scratch.empty(`${model.name}-${bits}`);
  await quantizeModel({
    ...{ source: model.directory, target, bits, force: false },
    onProgress: () => undefined,
  });
  return { ...model, directory: target };
}

const cases = [
  { name: 'llama-gqa', splits: ['1/1,1/3', '0/2,2/1', '1/1,0/1,1/5'] },
  { name: 'llama-gqa-bf16', splits: ['2/1,0/1'] },
  { name: 'llama-mha-tied', splits: ['3/1,5/1', '1/1,0/0,7/1'], tied: true },
  { name: 'opt-pre', splits: ['7/1,1/3', '3/0,5/1'], tied: true },
  { name: 'qwen2', splits: ['1/1,1/1'], tied: true },
  { name: 'mistral-swa', splits: ['0/1,2/3'] },
].flatMap((one) => ([8, 4] as const).map((bits) => ({ ...one, bits })));

describe.each(cases)('$name, $bits bits', ({ name, splits, tied = false, bits }) => {
  const model = shortGolden(name);
  const quantization = bits === 8 ? 'int8' : 'int4';

  test('files quantised ahead and weights quantised at load: one hash for every split and chunk', async () => {
    const ahead = await quantized(model, bits);
    const atLoad = await verify(model, { quantization });
    expect(atLoad.quantization).toBe(quantization);
    expect(atLoad.passed).toBe(true);
    for (const ranks of [null, ...splits]) {
      for (const chunk of [null, 5]) {
        const report = await verify(ahead, { ranks, chunk });
        expect(report.quantization).toBe(quantization);
        expect(report.logitsSha256).toBe(atLoad.logitsSha256);
        expect(report.greedyTokens).toEqual(atLoad.greedyTokens);
      }
      const split = await verify(model, { quantization, ranks });
      expect(split.logitsSha256).toBe(atLoad.logitsSha256);
    }
  });

  // A tied head is quantised apart from the embedding: no plain model has both.
  if (!tied)
    test('as far from the reference as the f32 model of the values that the files stand for', async () => {
      const ahead = await quantized(model, bits);
      const copy = scratch.copyOf(model);
      const tensors = readSafetensors(join(ahead.directory, 'model.safetensors'));
      writeSafetensors(join(copy, 'model.safetensors'), dequantizedTensors(tensors, copy));
      editConfig(copy, (config) => ({ ...config, torch_dtype: 'float32' }));
      const oracle = await verify({ ...model, directory: copy }, { dtype: 'f32' });
      const report = await verify(ahead);
      // What is left is the rounding of inputs and KV to bf16, as in a bf16 model.
      expect(Math.abs(report.klMean - oracle.klMean)).toBeLessThan(0.0007 + 0.02 * oracle.klMean);
    });

  test('ranks load the bytes of the files, each once', async () => {
    const ahead = await quantized(model, bits);
    const fileBytes = tensorBytes(readSafetensors(join(ahead.directory, 'model.safetensors')));
    for (const ranks of [null, ...splits]) {
      const report = await verify(ahead, { ranks });
      const replicated = report.ranks[0]!.weightBytesReplicated;
      const loaded = report.ranks.reduce((sum, rank) => sum + rank.weightBytesLoaded, 0);
      expect(loaded).toBe(fileBytes + (report.ranks.length - 1) * replicated);
    }
  });
});

test('a corrupted integer and a corrupted scale change the hash', async () => {
  const model = await quantized(shortGolden('llama-gqa'), 8);
  const whole = await verify(model);
  for (const tensor of ['model.layers.1.mlp.down_proj.qweight', 'lm_head.scales']) {
    const report = await verify(model, { corrupt: { rank: 0, tensor, byte: 8 } });
    expect(report.corrupted).toBe(true);
    expect(report.logitsSha256).not.toBe(whole.logitsSha256);
  }
});

test('inspect finds no problem but the missing tokenizer, and the types of the tensors', async () => {
  const { directory } = await quantized(shortGolden('llama-gqa'), 4);
  const report = await inspectDirectory(directory);
  expect(report.spec).toMatchObject({ quantization: 'int4', weightType: 'bf16' });
  expect(report.problems.map(({ check }) => check)).toEqual(['tokenizer']);
  const types = new Map((await inspectModel(directory)).map(({ name, type }) => [name, type]));
  expect(types.get('model.layers.0.self_attn.q_proj.qweight')).toBe('U8');
  expect(types.get('lm_head.qweight')).toBe('I8');
  expect(types.get('model.embed_tokens.weight')).toBe('bf16');
  const config = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8'));
  expect(config.quantization_config).toEqual(quantizationConfig('int4'));
});
