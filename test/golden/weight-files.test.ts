/** The same weights in other files: sharded with an index, and as f16. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { storedWeightType } from '../../proto/base/stored-weight-type.ts';
import { inspectDirectory } from '../../worker/tools/inspect.ts';
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
      const whole = await verify(half, { dtype: 'f16' });
      expect(whole.weightType).toBe('f16');
      expect(whole.maxDifference).toBeLessThanOrEqual(2e-2 * whole.maxLogit);
      expect(whole.maxDifference).toBeGreaterThan(0);
      expect(whole.passed).toBe(true);
      const bytes = tensorBytes(readSafetensors(join(half.directory, 'model.safetensors')));
      expect(whole.ranks[0]!.weightBytesLoaded).toBe(bytes);
      const groups = whole.ranks[0]!.headGroups[1];
      const split = await verify(half, {
        ...{ dtype: 'f16', chunk: 7 },
        ranks: `${groups - 1}/1,1/0,0/2`,
      });
      expect(split.logitsSha256).toBe(whole.logitsSha256);
    },
  );

  test('an f16 file kept as f32, as it is by default, is as close as its rounding', async () => {
    const model = shortGolden('llama-gqa');
    const half = { directory: f16Copy(model), golden: model.golden };
    const report = await verify(half, { dtype: 'f32' });
    expect(report.weightType).toBe('f32');
    expect(await verify(half)).toEqual(report);
    expect(report.maxDifference).toBeLessThan(2e-2 * report.maxLogit);
  });
});

describe('a config.json that names another type than the tensors have', () => {
  test.each([
    ['llama-gqa-bf16', 'float32', 'bf16'],
    ['llama-gqa-bf16', 'float16', 'bf16'],
    ['llama-gqa', 'bfloat16', 'f32'],
  ] as const)('%s called %s is %s', async (name, named, type) => {
    const model = shortGolden(name);
    const directory = scratch.copyOf(model);
    editConfig(directory, (config) => ({ ...config, torch_dtype: named }));
    expect(await verify({ directory, golden: model.golden })).toEqual(await verify(model));
    expect((await inspectDirectory(directory)).spec?.weightType).toBe(type);
  });

  test('most bytes decide: norms may be of another type', async () => {
    const directory = scratch.copyOf(shortGolden('llama-gqa'));
    const file = join(directory, 'model.safetensors');
    const tensors = [...readSafetensors(file)].map(
      ([name, tensor]) => [name, name.includes('norm') ? tensor : toF16(tensor)] as const,
    );
    writeSafetensors(file, new Map(tensors));
    const files = { directory, weightFiles: ['model.safetensors'] };
    expect(await storedWeightType(files)).toBe('f16');
  });

  test('files that are no safetensors have no type', async () => {
    const directory = scratch.copyOf(shortGolden('llama-gqa'));
    for (const bytes of ['', '{}', `\u0002${'\0'.repeat(7)}[]`, '\u00ff'.repeat(8)]) {
      writeFileSync(join(directory, 'model.safetensors'), bytes);
      const files = { directory, weightFiles: ['model.safetensors'] };
      expect(await storedWeightType(files)).toBeNull();
    }
  });
});
