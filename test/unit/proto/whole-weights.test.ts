import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { readModelFiles } from '../../../proto/base/model-files.ts';
import { storedWeightType } from '../../../proto/base/stored-weight-type.ts';
import { requireWholeWeights } from '../../../proto/base/whole-weights.ts';
import { modelSpecFromConfig } from '../../../proto/domain/model-config.ts';
import { neededTensors } from '../../../proto/domain/model-tensors.ts';
import { targetTensors } from '../../../worker/tools/quantized-tensors.ts';
import { cut, editHeader, weightsName } from '../../support/broken-models.ts';
import { bundledModel } from '../../support/daemons.ts';
import { families, writeFamily } from '../../support/family-models.ts';
import {
  editConfig,
  ScratchModels,
  shortGolden,
  shortGoldens,
} from '../../support/golden-models.ts';
import { readSafetensors, type Tensors, writeSafetensors } from '../../support/safetensors.ts';

const scratch = new ScratchModels();
afterAll(() => scratch.remove());

const down = 'model.layers.1.mlp.down_proj.weight';

async function check(directory: string): Promise<void> {
  const files = await readModelFiles(directory, { tokenizer: 'optional' });
  const tensorType = await storedWeightType(files);
  await requireWholeWeights(files, modelSpecFromConfig(files.config, { tensorType }));
}

async function expectRefused(directory: string, ...parts: string[]): Promise<void> {
  const error = await check(directory).then(
    () => null,
    (reason: Error & { code: string; field: string }) => reason,
  );
  expect(error).toMatchObject({ code: 'model-invalid' });
  expect(error?.message.startsWith(`${error.field}: `)).toBe(true);
  for (const part of parts) expect(error?.message).toContain(part);
}

type HeaderChange = Parameters<typeof editHeader>[0];

const breaks = {
  'an empty file': cut(0),
  'a file that ends in its header': cut(500),
  'a file that ends in its data': cut(600_000),
  'no header': editHeader(() => '[1'),
  'a tensor without a place': editHeader((header) => ({ ...header, [down]: {} }) as never),
};

test.each(Object.entries(breaks))('%s is refused by its name', async (_, spoil) => {
  const directory = scratch.copyOf(shortGolden('llama-gqa'));
  await check(directory);
  spoil(directory);
  await expectRefused(directory, join(directory, weightsName));
});

const entry =
  (change: object): HeaderChange =>
  (header) => ({ ...header, [down]: { ...header[down]!, ...change } });

const others: [string, HeaderChange, string[]][] = [
  [
    'another shape',
    entry({ shape: [112, 64] }),
    [weightsName, `'${down}' has shape [112, 64]; the model's config demands [64, 112]`],
  ],
  ['no shape', entry({ shape: null }), [`'${down}' has shape none`, 'demands [64, 112]']],
  [
    'another type',
    entry({ dtype: 'I32' }),
    [weightsName, `'${down}' has type 'I32'; it must be F32 or BF16 or F16`],
  ],
  [
    'no such tensor',
    ({ [down]: _, ...header }) => header,
    [`'${down}' is missing; the model's config demands one of shape [64, 112]`],
  ],
  [
    'a part of a quantised one',
    ({ [down]: tensor, ...header }) => ({ ...header, 'a.qweight': tensor! }),
    [weightsName, "'a.qweight' is quantised; config.json must say so in quantization_config"],
  ],
];

test.each(others)('where the model needs a tensor: %s', async (_, change, parts) => {
  const directory = scratch.copyOf(shortGolden('llama-gqa'));
  editHeader(change)(directory);
  await expectRefused(directory, ...parts);
});

describe('the tensors of a model', () => {
  test.each(shortGoldens.map(({ name, directory }) => [name, directory]))(
    'are those of %s',
    async (_, directory) => check(directory),
  );

  test('are those of the bundled model', () => check(bundledModel));

  test.each(families.map((family) => [family.name, family] as const))(
    'are each of those of %s',
    async (_, family) => {
      const directory = scratch.empty('family');
      const tensors = writeFamily(directory, family, 1);
      await check(directory);
      const shapes = ([name, { shape }]: [string, { shape: readonly number[] }]) => [name, shape];
      const needed = neededTensors(modelSpecFromConfig(family.config), false);
      expect(new Map(needed.map((tensor) => shapes([tensor.name, tensor]) as never))).toEqual(
        new Map([...tensors].map((tensor) => shapes(tensor) as never)),
      );
    },
  );

  test.each(['int8', 'int4'] as const)(
    'are parts of matrices in %s files',
    async (quantization) => {
      const directory = scratch.copyOf(shortGolden('llama-gqa'));
      const bits = quantization === 'int8' ? 8 : 4;
      const quantization_config = {
        ...{ quant_method: 'hels', format: 1, bits, head_bits: 8, group_size: 32 },
      };
      // As loaded, they are quantised either way; in the files they are not yet.
      editConfig(directory, (config) => ({ ...config, quantization_config }));
      await check(directory);
      const file = join(directory, weightsName);
      const stored = [...readSafetensors(file)];
      const { config } = await readModelFiles(directory, { tokenizer: 'optional' });
      const descriptions = stored.map(([name, { shape, data }]) => ({
        ...{ name, file, type: 'f32', shape, sizeBytes: data.length },
      }));
      const quantized: Tensors = new Map(
        targetTensors(modelSpecFromConfig(config), descriptions).map((target) => [
          target.name,
          { dtype: target.dtype, shape: target.shape, data: Buffer.alloc(target.sizeBytes) },
        ]),
      );
      writeSafetensors(file, quantized);
      await check(directory);
      const base = down.replace('.weight', '');
      const columns = quantization === 'int8' ? 112 : 56;
      const change: HeaderChange = (header) => {
        const [integers, scales] = [header[`${base}.qweight`]!, header[`${base}.scales`]!];
        return { ...header, [`${base}.qweight`]: scales, [`${base}.scales`]: integers };
      };
      editHeader(change)(directory);
      await expectRefused(directory, `'${base}.qweight' has shape [64, 14]`, `[64, ${columns}]`);
    },
  );
});

test('what the index does not name is not of the model', async () => {
  const directory = scratch.copyOf(shortGolden('llama-gqa'));
  const tensors = readSafetensors(join(directory, weightsName));
  rmSync(join(directory, weightsName));
  const wrong = { ...tensors.get(down)!, shape: [112, 64] };
  writeSafetensors(join(directory, 'a.safetensors'), tensors);
  writeSafetensors(join(directory, 'b.safetensors'), new Map([[down, wrong]]));
  const write = (map: [string, string][]) =>
    writeFileSync(
      join(directory, 'model.safetensors.index.json'),
      JSON.stringify({ weight_map: Object.fromEntries(map) }),
    );
  const inA = [...tensors.keys()].map((name): [string, string] => [name, 'a.safetensors']);
  write([...inA, ['elsewhere', 'b.safetensors']]);
  await check(directory);
  write([...inA, [down, 'b.safetensors']]);
  await expectRefused(directory, join(directory, 'b.safetensors'), 'shape [112, 64]');
  write(inA.filter(([name]) => name !== down));
  await expectRefused(directory, `'${down}' is missing`);
});
