import { afterAll, expect, test } from 'vitest';
import { servedSpec } from '../../../controller/deployment/served-files.ts';
import { readModelFiles } from '../../../proto/base/model-files.ts';
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
