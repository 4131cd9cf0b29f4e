/** The same weights in other files: sharded with an index, and as f16. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import {
  editConfig,
  type GoldenModel,
  ScratchModels,
  shortGolden,
} from '../support/golden-models.ts';
import { readSafetensors, tensorBytes, toF16, writeSafetensors } from '../support/safetensors.ts';
import { verify } from '../support/verify.ts';

const scratch = new ScratchModels();
afterAll(() => scratch.remove());

/** Deals the tensors out to `count` files, so that neighbours in a layer lie in different ones. */
function shardedCopy(model: GoldenModel, count: number): string {
  const directory = scratch.copyOf(model);
  const single = join(directory, 'model.safetensors');
  const tensors = [...readSafetensors(single)];
  rmSync(single);
  const fileOf = (index: number) =>
    `model-${String(index + 1).padStart(5, '0')}-of-${String(count).padStart(5, '0')}.safetensors`;
  for (let file = 0; file < count; file += 1) {
    const part = tensors.filter((_, index) => index % count === file);
    writeSafetensors(join(directory, fileOf(file)), new Map(part));
  }
  const index = {
    metadata: { total_size: tensorBytes(new Map(tensors)) },
    weight_map: Object.fromEntries(tensors.map(([name], at) => [name, fileOf(at % count)])),
  };
  writeFileSync(join(directory, 'model.safetensors.index.json'), JSON.stringify(index));
  return directory;
}

describe('sharded safetensors', () => {
  test.each([
    ['llama-gqa', 3, '1/3,1/1'],
    ['llama-gqa-bf16', 2, '2/1,0/1'],
    ['opt-pre', 5, '3/1,0/2,5/0'],
  ])('%s in %i files: same hash, one rank and %s', async (name, count, ranks) => {
    const model = shortGolden(name);
    const sharded = { directory: shardedCopy(model, count), golden: model.golden };
    const single = await verify(model);
    const whole = await verify(sharded);
    expect(whole).toEqual(single);
    const split = await verify(sharded, { ranks });
    expect(split.logitsSha256).toBe(single.logitsSha256);
    expect(split.ranks).toEqual((await verify(model, { ranks })).ranks);
  });
});

describe('f16', () => {
  /** f16 weights of an f32 model, and a config.json that says so. */
  function f16Copy(model: GoldenModel): string {
    const directory = scratch.copyOf(model);
    const file = join(directory, 'model.safetensors');
    const tensors = [...readSafetensors(file)].map(
      ([name, tensor]) => [name, toF16(tensor)] as const,
    );
    writeSafetensors(file, new Map(tensors));
    editConfig(directory, (config) => ({ ...config, torch_dtype: 'float16' }));
    return directory;
  }

  test.each(['llama-gqa', 'llama-mha-tied', 'opt-pre'])(
    '%s within 2e-2, same bits over ranks',
    async (name) => {
      const model = shortGolden(name);
      const half = { directory: f16Copy(model), golden: model.golden };
      const whole = await verify(half);
      expect(whole.weightType).toBe('f16');
      expect(whole.maxDifference).toBeLessThanOrEqual(2e-2 * whole.maxLogit);
      expect(whole.maxDifference).toBeGreaterThan(0);
      expect(whole.passed).toBe(true);
      const bytes = tensorBytes(readSafetensors(join(half.directory, 'model.safetensors')));
      expect(whole.ranks[0]!.weightBytesLoaded).toBe(bytes);
      const groups = whole.ranks[0]!.headGroups[1];
      const split = await verify(half, { ranks: `${groups - 1}/1,1/0,0/2`, chunk: 7 });
      expect(split.logitsSha256).toBe(whole.logitsSha256);
    },
  );

  test('an f16 file kept as f32 is as close as its rounding', async () => {
    const model = shortGolden('llama-gqa');
    const half = { directory: f16Copy(model), golden: model.golden };
    const report = await verify(half, { dtype: 'f32' });
    expect(report.weightType).toBe('f32');
    expect(report.maxDifference).toBeLessThan(2e-2 * report.maxLogit);
  });
});
