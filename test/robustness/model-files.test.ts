/** What is said of a whole directory: `helsctl model inspect`, and the tokenizer that a served model must have. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { TextModel } from '../../controller/tokenizer/text-model.ts';
import { readModelFiles } from '../../proto/base/model-files.ts';
import { config, cut, weightsName, write, writeLength } from '../support/broken-models.ts';
import { bundledModel } from '../support/daemons.ts';
import { ScratchModels, shortGolden } from '../support/golden-models.ts';
import { helsctl } from '../support/helsctl.ts';

// Each test runs helsctl, two Node programs: seconds on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const scratch = new ScratchModels();
afterAll(() => scratch.remove());

describe('helsctl model inspect', () => {
  interface Inspection {
    directory: string;
    spec: { family: string } | null;
    digest: string | null;
    problems: { check: string; message: string }[];
  }

  test('tells everything that is wrong at once, exit code 4', async () => {
    const directory = scratch.copyOf(shortGolden('llama-gqa'));
    config({ rope_scaling: { type: 'yarn', factor: 4 } })(directory);
    writeLength(2n ** 63n)(directory);
    const { exitCode, stdout, stderr } = await inspect(directory, '--json');
    const report = JSON.parse(stdout) as Inspection;
    expect(report).toMatchObject({ directory, spec: null });
    expect(report.digest).toMatch(/^[0-9a-f]{64}$/);
    expect(report.problems.map(({ check }) => check)).toEqual(['tokenizer', 'weights', 'config']);
    expect(stderr).toBe('');
    expect(exitCode).toBe(4);
  });

  test('the same for people', async () => {
    const directory = scratch.copyOf(shortGolden('llama-gqa'));
    cut(600_000)(directory);
    const { exitCode, stdout, stderr } = await inspect(directory);
    expect(stdout).toContain(
      `problem (tokenizer): ${join(directory, 'tokenizer.json')} is missing`,
    );
    expect(stdout).toContain(`problem (weights): ${join(directory, weightsName)}: tensor`);
    expect(stderr).toBe('');
    expect(exitCode).toBe(4);
  });

  test.each(['', 'none'])('not a directory: %j', async (name) => {
    const directory = name === '' ? shortGolden('llama-gqa').golden : scratch.empty(name);
    const { exitCode, stdout } = await inspect(directory, '--json');
    const { problems } = JSON.parse(stdout) as Inspection;
    expect(problems).toEqual([
      { check: 'files', message: expect.stringContaining(`${directory} is not a directory`) },
    ]);
    expect(exitCode).toBe(4);
  });

  test('finds nothing wrong with a whole model', async () => {
    const { exitCode, stdout } = await inspect(bundledModel, '--json');
    expect(JSON.parse(stdout) as Inspection).toMatchObject({
      spec: { family: 'llama' },
      problems: [],
    });
    expect(exitCode).toBe(0);
  });

  function inspect(directory: string, ...more: string[]) {
    return helsctl('model', 'inspect', '--model', directory, ...more);
  }
});

describe('tokenizer.json', () => {
  function served(change: (directory: string) => void): string {
    const directory = scratch.copyOf({ name: 'hels-tiny', directory: bundledModel, golden: '' });
    change(directory);
    return directory;
  }
  const without = () => served((directory) => rmSync(join(directory, 'tokenizer.json')));

  test('missing: refused where a model is served', async () => {
    const directory = without();
    const refusal = {
      code: 'model-invalid',
      message: expect.stringContaining(`${join(directory, 'tokenizer.json')} is missing`) as string,
    };
    await expect(readModelFiles(directory)).rejects.toMatchObject(refusal);
    await expect(TextModel.load(directory)).rejects.toMatchObject({ code: 'model-invalid' });
    const { tokenizerFile } = await readModelFiles(directory, { tokenizer: 'optional' });
    expect(tokenizerFile).toBeNull();
  });

  test.each([
    ['not JSON', '{', 'is not JSON'],
    ['not a tokenizer', '{}', 'model is missing'],
    ['without a decoder', '{"model": {"type": "BPE"}, "added_tokens": []}', '"decoder"'],
  ])('%s: refused, naming the file', async (_, text, reason) => {
    const directory = served(write('tokenizer.json', text));
    await expect(TextModel.load(directory)).rejects.toMatchObject({
      code: 'model-invalid',
      message: expect.stringMatching(new RegExp(`tokenizer.json.*${reason}`)) as string,
    });
  });
});
