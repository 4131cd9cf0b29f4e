/** Quantised models that are damaged or do not fit: each a clear error that names file and tensor or field, exit code 4. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { quantizationConfig } from '../../proto/domain/quantization.ts';
import { quantizeModel } from '../../worker/tools/quantize.ts';
import {
  type Broken,
  config,
  cut,
  editHeader,
  expectRefused,
  weightsName,
} from '../support/broken-models.ts';
import { type GoldenModel, ScratchModels, shortGolden } from '../support/golden-models.ts';
import { readSafetensors, type Tensors, writeSafetensors } from '../support/safetensors.ts';
import { verify } from '../support/verify.ts';

// Each test runs helsctl, two Node programs: seconds on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const scratch = new ScratchModels();
let model: GoldenModel;

beforeAll(async () => {
  const source = shortGolden('llama-gqa');
  const directory = scratch.empty('int8');
  const onProgress = () => undefined;
  await quantizeModel({
    source: source.directory,
    target: directory,
    bits: 8,
    force: false,
    onProgress,
  });
  model = { ...source, directory };
});

afterAll(() => scratch.remove());

const down = 'model.layers.1.mlp.down_proj';
const header = quantizationConfig('int8');

/** Rewrites the file with other tensors. */
function tensors(change: (tensors: Tensors) => void): (directory: string) => void {
  return (directory) => {
    const file = join(directory, weightsName);
    const all = readSafetensors(file);
    change(all);
    writeSafetensors(file, all);
  };
}

const said = (fields: Record<string, unknown>) =>
  config({ quantization_config: { ...header, ...fields } });

const cases: Broken[] = [
  {
    name: 'integers are missing',
    break: tensors((all) => void all.delete(`${down}.qweight`)),
    message: [`'${down}.qweight' is missing`],
  },
  {
    name: 'scales are missing',
    break: tensors((all) => void all.delete(`${down}.scales`)),
    message: [`'${down}.scales' is missing`],
  },
  {
    name: 'integers of another shape',
    break: editHeader((entries) => ({
      ...entries,
      [`${down}.qweight`]: { ...entries[`${down}.qweight`]!, shape: [112, 64] },
    })),
    message: [weightsName, `${down}.qweight`, 'shape [112, 64]', 'demands [64, 112]'],
  },
  {
    name: 'fewer groups than granules',
    break: tensors((all) => {
      const scales = all.get(`${down}.scales`)!;
      const [rows = 0, groups = 0] = scales.shape;
      const data = scales.data.subarray(0, 2 * rows * (groups - 1));
      all.set(`${down}.scales`, { ...scales, shape: [rows, groups - 1], data });
    }),
    message: [weightsName, `${down}.scales`, 'shape [64, 13]', 'demands [64, 14]'],
  },
  {
    name: 'integers of another type',
    break: tensors((all) => {
      all.set(`${down}.qweight`, { ...all.get(`${down}.qweight`)!, dtype: 'U8' });
    }),
    message: [weightsName, `${down}.qweight`, "type 'U8'", 'must be I8'],
  },
  {
    name: 'scales of another type',
    break: tensors((all) => {
      all.set(`${down}.scales`, { ...all.get(`${down}.scales`)!, dtype: 'BF16' });
    }),
    message: [weightsName, `${down}.scales`, "type 'BF16'", 'must be F16'],
  },
  {
    name: 'a matrix is there quantised and not',
    break: tensors((all) => {
      const { shape } = all.get(`${down}.qweight`)!;
      const data = Buffer.alloc(2 * 64 * 112);
      all.set(`${down}.weight`, { dtype: 'BF16', shape, data });
    }),
    message: [weightsName, `'${down}.weight' is there beside '${down}.qweight'`],
  },
  {
    name: 'a quantised tensor that the model has no place for',
    break: tensors((all) => {
      all.set('model.layers.9.mlp.up_proj.scales', all.get(`${down}.scales`)!);
    }),
    message: [weightsName, "'model.layers.9.mlp.up_proj.scales'", 'belongs to no matrix'],
  },
  {
    name: 'a config that does not say so',
    break: config({ quantization_config: null }),
    message: [weightsName, 'is quantised; config.json must say so in quantization_config'],
  },
  {
    name: 'a config that says other bits',
    break: said({ bits: 4 }),
    message: [weightsName, '.qweight', 'shape', 'demands'],
  },
  {
    name: 'bits that Hels does not have',
    break: said({ bits: 3 }),
    message: ['config.json: quantization_config.bits is 3', '8 or 4'],
  },
  {
    name: 'another group size',
    break: said({ group_size: 128 }),
    message: ['config.json: quantization_config.group_size is 128', '32'],
  },
  {
    name: 'a later format',
    break: said({ format: 2 }),
    message: ['config.json: quantization_config.format is 2'],
  },
  {
    name: 'a field nobody knows',
    break: said({ zero_point: true }),
    message: ['config.json: quantization_config.zero_point is true', 'no such field'],
  },
  { name: 'cut in the data', break: cut(150_000), message: [weightsName, 'is it truncated?'] },
];

describe('quantised models', () => {
  test.each(cases)('$name', (broken) => expectRefused(scratch, broken, model));

  // Only a rank that loads it meets it: inspect, which loads nothing that is split, does not.
  test.each([0x7e00, 0x7c00, 0xfc00])('a scale of bits %i', async (bits) => {
    const directory = scratch.copyOf(model);
    tensors((all) => all.get(`${down}.scales`)!.data.writeUInt16LE(bits, 2 * (14 * 3 + 1)))(
      directory,
    );
    const message = new RegExp(`${weightsName}: tensor '${down}.scales': a scale of row 3 is NaN`);
    await expect(verify({ ...model, directory })).rejects.toThrow(message);
  });
});
