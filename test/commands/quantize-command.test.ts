/** helsctl model quantize as a process: what it writes, and what it refuses. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { bundledModel } from '../support/daemons.ts';
import { ScratchModels, shortGolden } from '../support/golden-models.ts';
import { helsctl } from '../support/helsctl.ts';
import { readSafetensors, writeSafetensors } from '../support/safetensors.ts';

// Each test runs helsctl, two Node programs: seconds on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const scratch = new ScratchModels();
mkdirSync(scratch.folder, { recursive: true });
afterAll(() => scratch.remove());

const quantize = (...parameters: string[]) => helsctl('model', 'quantize', ...parameters);

async function expectRefused(
  parameters: string[],
  exitCode: number,
  message: string[],
): Promise<void> {
  const result = await quantize(...parameters, '--json');
  expect(result.stdout).toBe('');
  const { error } = JSON.parse(result.stderr) as { error: { message: string } };
  for (const part of message) expect(error.message).toContain(part);
  expect(result.exitCode).toBe(exitCode);
}

describe('helsctl model quantize', () => {
  test('writes a model with tokenizer beside the smaller weights, shows progress and leaves nothing else', async () => {
    const target = scratch.empty('tiny');
    const result = await quantize(bundledModel, target, '--bits', '4');
    expect(result.stderr).toContain('100 % written');
    expect(result.exitCode).toBe(0);
    expect(result.stdout).toContain('int4');
    const names = readdirSync(bundledModel);
    expect(readdirSync(target).sort()).toEqual(names.sort());
    for (const name of names.filter((other) => other.startsWith('tokenizer'))) {
      expect(readFileSync(join(target, name))).toEqual(readFileSync(join(bundledModel, name)));
    }
    const size = (directory: string) => statSync(join(directory, 'model.safetensors')).size;
    expect(size(target)).toBeLessThan(0.5 * size(bundledModel));
    const inspection = await helsctl('model', 'inspect', '--model', target, '--json');
    expect(JSON.parse(inspection.stdout)).toMatchObject({
      problems: [],
      spec: { quantization: 'int4' },
    });
    expect(readdirSync(scratch.folder).filter((name) => name.includes('unfinished'))).toEqual([]);
  });

  test('the same bytes each time; --force replaces, nothing else does', async () => {
    const source = shortGolden('opt-pre').directory;
    const target = scratch.empty('opt');
    expect((await quantize(source, target, '--bits', '8', '--json')).exitCode).toBe(0);
    const first = readFileSync(join(target, 'model.safetensors'));
    await expectRefused([source, target, '--bits', '8'], 2, [target, 'exists', '--force']);
    writeFileSync(join(target, 'leftover.json'), '{}');
    const again = await quantize(source, target, '--bits', '8', '--force', '--json');
    expect(JSON.parse(again.stdout)).toMatchObject({ quantization: 'int8', target });
    expect(readFileSync(join(target, 'model.safetensors'))).toEqual(first);
    expect(existsSync(join(target, 'leftover.json'))).toBe(false);
  });

  test('refuses what it cannot do, naming it', async () => {
    const source = shortGolden('llama-gqa').directory;
    const target = scratch.empty('refused');
    await expectRefused([source, target, '--bits', '3'], 2, ['3', '8, 4']);
    await expectRefused([source, target], 2, ['--bits']);
    await expectRefused([source, source, '--bits', '8', '--force'], 2, ['lies in SOURCE']);
    await expectRefused([source, join(source, 'x'), '--bits', '8'], 2, ['lies in SOURCE']);
    await expectRefused([scratch.empty('none'), target, '--bits', '8'], 4, ['none', 'directory']);
    await expectRefused([source, join(target, 'a', 'b'), '--bits', '8'], 2, ['create it first']);
    mkdirSync(target);
    writeFileSync(join(target, 'letters.txt'), 'dear');
    await expectRefused([source, target, '--bits', '8', '--force'], 2, ['not a model directory']);
    expect(readdirSync(target)).toEqual(['letters.txt']);
  });

  test('refuses models that are quantised, lack a matrix or hold what is not a number', async () => {
    const int8 = scratch.empty('int8');
    await quantize(shortGolden('llama-gqa').directory, int8, '--bits', '8', '--json');
    const target = scratch.empty('target');
    await expectRefused([int8, target, '--bits', '4'], 4, ['quantization_config', 'SOURCE']);

    const lacking = scratch.copyOf(shortGolden('llama-gqa'));
    const file = join(lacking, 'model.safetensors');
    const tensors = readSafetensors(file);
    const up = 'model.layers.1.mlp.up_proj.weight';
    writeSafetensors(file, new Map([...tensors].filter(([name]) => name !== up)));
    await expectRefused([lacking, target, '--bits', '4'], 4, [up, 'missing']);

    const tensor = tensors.get(up)!;
    const data = Buffer.from(tensor.data);
    data.writeFloatLE(Number.NaN, 4 * (3 * 64 + 5));
    writeSafetensors(file, new Map([...tensors, [up, { ...tensor, data }]]));
    await expectRefused([lacking, target, '--bits', '4'], 4, [up, 'row 3, column 5', 'NaN']);
    expect(existsSync(target)).toBe(false);
    expect(readdirSync(scratch.folder).filter((name) => name.includes('unfinished'))).toEqual([]);
  });

  test('follows a link to the weights', async () => {
    const source = scratch.empty('linked');
    mkdirSync(source);
    const { directory } = shortGolden('qwen2');
    for (const name of readdirSync(directory)) {
      symlinkSync(join(directory, name), join(source, name));
    }
    const target = scratch.empty('from-links');
    expect((await quantize(source, target, '--bits', '4', '--json')).exitCode).toBe(0);
  });
});
