import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test, vi } from 'vitest';
import {
  modelIdOf,
  readServedFiles,
  servedSpec,
} from '../../../controller/deployment/served-files.ts';
import { TextModel } from '../../../controller/tokenizer/text-model.ts';
import { readModelFiles } from '../../../proto/base/model-files.ts';
import { bundledModel } from '../../support/daemons.ts';
import { editConfig, ScratchModels, shortGolden } from '../../support/golden-models.ts';

const scratch = new ScratchModels();
afterAll(() => scratch.remove());

test.each([
  ['llama-gqa-bf16', 'float16', 'bf16'],
  ['llama-gqa', 'bfloat16', 'f32'],
])("%s is served in its tensors' type when config.json says %s", async (name, named, type) => {
  const directory = scratch.copyOf(shortGolden(name));
  editConfig(directory, (config) => ({ ...config, torch_dtype: named }));
  const files = await readModelFiles(directory, { tokenizer: 'optional' });
  expect((await servedSpec(files, {})).weightType).toBe(type);
  expect((await servedSpec(files, { quantization: 'int8' })).weightType).toBe('bf16');
});

test('without a name, a model has that of its directory, as far as names may', () => {
  const id = (modelPath: string, modelId = '') => modelIdOf({ modelPath, modelId });
  expect(id('/models/Qwen2.5-7B_x/')).toBe('Qwen2.5-7B_x');
  expect(id('/models/modèle x😀')).toBe('mod-le-x-');
  expect(id(`/models/${'m'.repeat(200)}`)).toBe('m'.repeat(128));
  expect(id('/models/a', 'org/b:1')).toBe('org/b:1');
});

test('an edited chat template is of another model, with the same weights', async () => {
  const directory = scratch.copyOf({ name: 'm', directory: bundledModel, golden: '' });
  vi.spyOn(TextModel, 'load').mockResolvedValue({} as TextModel);
  const digests = async () => {
    const { digest, weightsDigest } = await readServedFiles(directory, 'm');
    return { digest, weightsDigest };
  };
  const before = await digests();
  appendFileSync(join(directory, 'tokenizer_config.json'), '\n');
  const after = await digests();
  expect(after.digest).not.toBe(before.digest);
  expect(after.weightsDigest).toBe(before.weightsDigest);
  expect(before.weightsDigest).not.toBe(before.digest);
});
