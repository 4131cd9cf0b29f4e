import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { modelDigest } from '../../../proto/base/model-files.ts';
import { ScratchModels, shortGolden } from '../../support/golden-models.ts';

const scratch = new ScratchModels();
afterAll(() => scratch.remove());

test.each([
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
  'generation_config.json',
])('the digest of a model changes with %s, and comes back', async (name) => {
  const directory = scratch.copyOf(shortGolden('llama-gqa'));
  const before = await modelDigest(directory);
  writeFileSync(join(directory, name), '{}');
  const first = await modelDigest(directory);
  writeFileSync(join(directory, name), '{ }');
  const second = await modelDigest(directory);
  expect(new Set([before, first, second]).size).toBe(3);
  rmSync(join(directory, name));
  expect(await modelDigest(directory)).toBe(before);
});

test('files that change no answer do not change it', async () => {
  const directory = scratch.copyOf(shortGolden('llama-gqa'));
  const before = await modelDigest(directory);
  writeFileSync(join(directory, 'README.md'), 'A model.');
  expect(await modelDigest(directory)).toBe(before);
});
