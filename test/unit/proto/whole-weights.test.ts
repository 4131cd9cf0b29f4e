import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { requireWholeWeights } from '../../../proto/base/whole-weights.ts';
import { cut, editHeader, weightsName } from '../../support/broken-models.ts';
import { ScratchModels, shortGolden } from '../../support/golden-models.ts';

const scratch = new ScratchModels();
afterAll(() => scratch.remove());

const down = 'model.layers.1.mlp.down_proj.weight';
const breaks = {
  'an empty file': cut(0),
  'a file that ends in its header': cut(500),
  'a file that ends in its data': cut(600_000),
  'no header': editHeader(() => '[1'),
  'a tensor without a place': editHeader((header) => ({ ...header, [down]: {} }) as never),
};

test.each(Object.entries(breaks))('%s is refused by its name', async (_, spoil) => {
  const directory = scratch.copyOf(shortGolden('llama-gqa'));
  const files = { directory, weightFiles: [weightsName] };
  await requireWholeWeights(files);
  spoil(directory);
  const path = join(directory, weightsName);
  await expect(requireWholeWeights(files)).rejects.toMatchObject({
    code: 'model-invalid',
    field: path,
    message: expect.stringContaining(`${path}: `),
  });
});
