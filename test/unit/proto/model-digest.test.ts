import { appendFileSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { modelDigest, weightsDigest } from '../../../proto/base/model-files.ts';
import { editConfig, ScratchModels, shortGolden } from '../../support/golden-models.ts';

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

test('weights that changed within a file of the same size and time change it', async () => {
  const directory = scratch.copyOf(shortGolden('llama-gqa'));
  const before = await modelDigest(directory);
  const file = join(directory, 'model.safetensors');
  const { atime, mtime } = statSync(file);
  utimesSync(file, atime, mtime);
  expect(await modelDigest(directory)).toBe(before);
  const bytes = readFileSync(file);
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  writeFileSync(file, bytes);
  utimesSync(file, atime, mtime);
  expect(await modelDigest(directory)).not.toBe(before);
});

test('files that change no answer do not change it', async () => {
  const directory = scratch.copyOf(shortGolden('llama-gqa'));
  const before = await modelDigest(directory);
  writeFileSync(join(directory, 'README.md'), 'A model.');
  expect(await modelDigest(directory)).toBe(before);
});

test('the digest of the weights changes with config.json and the weights alone', async () => {
  const directory = scratch.copyOf(shortGolden('llama-gqa'));
  const before = await weightsDigest(directory);
  for (const name of ['tokenizer.json', 'chat_template.jinja', 'generation_config.json']) {
    writeFileSync(join(directory, name), '{}');
  }
  expect(await weightsDigest(directory)).toBe(before);
  editConfig(directory, (config) => ({ ...config, rms_norm_eps: 1e-3 }));
  const configured = await weightsDigest(directory);
  appendFileSync(join(directory, 'model.safetensors'), ' ');
  expect(new Set([before, configured, await weightsDigest(directory)]).size).toBe(3);
});
