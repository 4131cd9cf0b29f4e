/** Weights that are missing or broken: each a clear error that names the file and the tensor, exit code 4. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, test, vi } from 'vitest';
import {
  type Broken,
  cut,
  editHeader,
  expectRefused,
  weightsName,
  writeLength,
} from '../support/broken-models.ts';
import { ScratchModels } from '../support/golden-models.ts';
import { readSafetensors, writeSafetensors } from '../support/safetensors.ts';

// Each test runs helsctl, two Node programs: seconds on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const scratch = new ScratchModels();
afterAll(() => scratch.remove());

const indexName = 'model.safetensors.index.json';
const down = 'model.layers.1.mlp.down_proj.weight';

/** In place of the single file: one file of the sharded form, and the index. */
function shard(weightMap: (names: string[]) => unknown): (directory: string) => void {
  return (directory) => {
    const single = join(directory, weightsName);
    const tensors = readSafetensors(single);
    rmSync(single);
    writeSafetensors(join(directory, 'part.safetensors'), tensors);
    const index = { weight_map: weightMap([...tensors.keys()]) };
    writeFileSync(join(directory, indexName), JSON.stringify(index));
  };
}

const inPart = (names: string[]): Record<string, string> =>
  Object.fromEntries(names.map((name) => [name, 'part.safetensors']));

const files: Broken[] = [
  {
    name: 'no config.json',
    break: (directory) => rmSync(join(directory, 'config.json')),
    message: ['config.json is missing'],
  },
  {
    name: 'no weights',
    break: (directory) => rmSync(join(directory, weightsName)),
    message: ['model.safetensors is missing', indexName],
  },
  {
    name: 'a file that the index names is missing',
    break: shard((names) => ({ ...inPart(names), [down]: 'other.safetensors' })),
    message: ['other.safetensors is missing', indexName],
  },
  {
    name: 'the index maps a tensor to a file without it',
    break: shard((names) => ({ ...inPart(names), 'model.extra.weight': 'part.safetensors' })),
    message: [indexName, "'model.extra.weight'", 'part.safetensors'],
  },
  {
    name: 'the index lacks a tensor',
    break: shard((names) => inPart(names.filter((name) => name !== down))),
    message: [down, 'is missing'],
  },
  {
    name: 'the index leaves the directory',
    break: shard((names) => ({ ...inPart(names), [down]: '../part.safetensors' })),
    message: [indexName, 'weight_map'],
  },
  { name: 'the index has no map', break: shard(() => []), message: [indexName, 'weight_map'] },
];

const weights: Broken[] = [
  { name: 'empty file', break: cut(0), message: [weightsName, 'truncated'] },
  { name: 'cut in the length', break: cut(7), message: [weightsName, 'truncated: 7 bytes'] },
  { name: 'cut in the header', break: cut(500), message: [weightsName, 'truncated', '492 follow'] },
  {
    name: 'cut in the data',
    break: cut(600_000),
    message: [weightsName, 'tensor', 'is it truncated?'],
  },
  {
    name: 'header length 2^63',
    break: writeLength(2n ** 63n),
    message: [weightsName, 'header length is 9223372036854775808'],
  },
  {
    name: 'header length 2^64 - 1',
    break: writeLength(2n ** 64n - 1n),
    message: [weightsName, 'header length is 18446744073709551615'],
  },
  {
    name: 'header longer than the file',
    break: writeLength(700_000n),
    message: [weightsName, 'header length is 700000'],
  },
  {
    name: 'header not JSON',
    break: editHeader(() => '{"lm_head.weight": {"dtype": '),
    message: [weightsName, 'header', 'not valid JSON'],
  },
  {
    name: 'header not an object',
    break: editHeader(() => '[1, 2, 3]'),
    message: [weightsName, 'header must be a JSON object'],
  },
  {
    name: 'header nested without end',
    break: editHeader(() => '['.repeat(20_000)),
    message: [weightsName, 'nested deeper'],
  },
  {
    name: 'a tensor twice',
    break: editHeader((header) => {
      const text = JSON.stringify(header);
      return `${text.slice(0, -1)},${JSON.stringify(down)}:${JSON.stringify(header[down])}}`;
    }),
    message: [weightsName, `'${down}' twice`],
  },
  {
    name: 'overlapping tensors',
    break: editHeader((header) => {
      const [begin, end] = header[down]!.data_offsets;
      return { ...header, [down]: { ...header[down]!, data_offsets: [begin - 4, end - 4] } };
    }),
    message: [weightsName, down, 'overlap at byte'],
  },
  {
    name: 'offsets outside of the file',
    break: editHeader((header) => {
      const [begin, end] = header[down]!.data_offsets;
      return { ...header, [down]: { ...header[down]!, data_offsets: [begin + 1e6, end + 1e6] } };
    }),
    message: [weightsName, down, 'data_offsets'],
  },
  {
    name: 'offsets in the wrong order',
    break: editHeader((header) => {
      const [begin, end] = header[down]!.data_offsets;
      return { ...header, [down]: { ...header[down]!, data_offsets: [end, begin] } };
    }),
    message: [weightsName, down, 'in order'],
  },
  {
    name: 'a negative offset',
    break: editHeader((header) => ({
      ...header,
      [down]: { ...header[down]!, data_offsets: [-4, 28_668] },
    })),
    message: [weightsName, down, 'data_offsets [-4,28668]'],
  },
  {
    name: 'a shape that its bytes do not have',
    break: editHeader((header) => ({ ...header, [down]: { ...header[down]!, shape: [64, 113] } })),
    message: [weightsName, down, 'shape [64, 113]'],
  },
  {
    name: 'a shape of more than 2^64 bytes',
    break: editHeader((header) => ({
      ...header,
      [down]: { ...header[down]!, shape: [2 ** 40, 2 ** 40] },
    })),
    message: [weightsName, down, 'more than 2^64 bytes'],
  },
  {
    name: 'a shape that the config does not demand',
    break: editHeader((header) => ({ ...header, [down]: { ...header[down]!, shape: [112, 64] } })),
    message: [weightsName, down, 'shape [112, 64]', 'demands [64, 112]'],
  },
  {
    name: 'a tensor is missing',
    break: editHeader((header) => {
      const { [down]: _, ...others } = header;
      return others;
    }),
    message: [down, 'is missing'],
  },
  {
    name: 'a type that cannot be read',
    break: editHeader((header) => ({ ...header, [down]: { ...header[down]!, dtype: 'I32' } })),
    message: [weightsName, down, "'I32'"],
  },
];

describe.each([
  ['files', files],
  ['safetensors', weights],
])('%s', (_, cases) => {
  test.each(cases)('$name', (broken) => expectRefused(scratch, broken));
});
