/** A golden.json that is broken or of another model: exit code 4 like every wrong file of a model, naming file and field. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test, vi } from 'vitest';
import { HelsError } from '../../proto/domain/errors.ts';
import { readGolden } from '../../worker/tools/golden.ts';
import { ScratchModels, shortGolden } from '../support/golden-models.ts';
import { helsctl } from '../support/helsctl.ts';
import { verify } from '../support/verify.ts';

// Each test runs helsctl, two Node programs: seconds on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const model = shortGolden('llama-gqa');
const scratch = new ScratchModels();
afterAll(() => scratch.remove());

const good = await readGolden(model.golden);
const json = {
  input_ids: good.inputIds,
  logits: good.logits,
  greedy: { prompt: good.greedy.prompt, tokens: good.greedy.tokens },
};
const { input_ids: ids, logits, greedy } = json;
const others = ids.slice(1);

interface BadGolden {
  name: string;
  text: string;
  /** Every one is in the message, after the file's name. */
  message: string[];
}

function bad(name: string, change: object, ...message: string[]): BadGolden {
  return { name, text: JSON.stringify({ ...json, ...change }), message };
}

const cases: BadGolden[] = [
  { name: 'not JSON', text: '{"input_ids": [1, 2', message: ['is not JSON'] },
  { name: 'not an object', text: '[]', message: ['must be an object'] },
  bad('no logits', { logits: null }, 'logits must hold at least one row'),
  bad('a row that is no numbers', { logits: [['a']] }, 'logits[0] must be an array of numbers'),
  bad(
    'rows of two widths',
    { logits: [...logits.slice(1), [1]] },
    'logits[23] has 1 columns',
    '199',
  ),
  bad(
    'fewer rows than ids',
    { logits: logits.slice(1) },
    'logits has 23 rows from position 0',
    '24',
  ),
  bad(
    'a first position below 0',
    { logits_from_position: -1, logits: [...logits, logits[0]] },
    'logits_from_position is -1',
  ),
  bad('a first position between two', { logits_from_position: 0.5 }, 'logits_from_position is 0.5'),
  bad('no ids', { input_ids: [] }, 'input_ids must be an array'),
  bad('an id below 0', { input_ids: [-1, ...others] }, 'input_ids[0] is -1'),
  bad('an id that is not whole', { input_ids: [1.5, ...others] }, 'input_ids[0] is 1.5'),
  bad(
    'an id of more than 32 bits',
    { input_ids: [2 ** 40, ...others] },
    'input_ids[0] is 1099511627776',
  ),
  bad('no greedy part', { greedy: undefined }, 'greedy must be an object'),
  bad(
    'greedy ids that are text',
    { greedy: { ...greedy, prompt: 'a' } },
    'greedy.prompt must be an array',
  ),
  bad('a greedy token below 0', { greedy: { ...greedy, tokens: [-4] } }, 'greedy.tokens[0] is -4'),
  bad('a margin too few', { greedy: { ...greedy, margins: [1] } }, 'greedy.margins has 1', '16'),
];

/** Of another model: the reader cannot know. */
const foreign: BadGolden[] = [
  bad(
    'wrong width',
    { logits: logits.map((row) => row.slice(1)) },
    'logits have 198 columns',
    'vocab_size is 199',
  ),
  bad(
    'an id above the vocabulary',
    { input_ids: [199, ...others] },
    'input_ids[0] is 199',
    'vocab_size is 199',
  ),
  bad(
    'a prompt above it',
    { greedy: { ...greedy, prompt: [5, 500] } },
    'greedy.prompt[1] is 500',
    'vocab_size is 199',
  ),
  bad(
    'too many ids',
    { input_ids: Array(144).fill(3), logits_from_position: 120 },
    'input_ids has 144 tokens',
    '128',
  ),
  bad(
    'too many greedy tokens',
    { greedy: { prompt: ids, tokens: Array(106).fill(3) } },
    'greedy has 129 tokens',
    '128',
  ),
];

function write({ name, text }: BadGolden): string {
  const file = join(scratch.folder, `${name.replaceAll(' ', '-')}.json`);
  writeFileSync(file, text);
  return file;
}

async function expectRefused(
  run: Promise<unknown>,
  file: string,
  message: string[],
): Promise<void> {
  const error = await run.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(HelsError);
  expect(error).toMatchObject({ code: 'model-invalid' });
  for (const part of [file, ...message]) expect((error as HelsError).message).toContain(part);
}

test.each(cases)('$name', async (golden) => {
  const file = write(golden);
  await expectRefused(readGolden(file), file, golden.message);
});

test.each(foreign)('$name', async (golden) => {
  const file = write(golden);
  await readGolden(file);
  await expectRefused(verify({ ...model, golden: file }), file, golden.message);
});

test('greedy tokens up to the last position are fine', async () => {
  const file = write(bad('full', { greedy: { prompt: ids, tokens: Array(105).fill(3) } }));
  expect((await verify({ ...model, golden: file })).greedyTokens).toHaveLength(105);
});

test.each([cases[0]!, foreign[0]!])('helsctl: $name', async (golden) => {
  const file = write(golden);
  const { exitCode, stdout, stderr } = await helsctl(
    'model',
    'verify',
    '--model',
    model.directory,
    '--golden',
    file,
  );
  expect(stdout).toBe('');
  expect(stderr).toMatch(/^error: [^\n]+\n$/);
  for (const part of [file, ...golden.message]) expect(stderr).toContain(part);
  expect(exitCode).toBe(4);
});

test('helsctl: no such file', async () => {
  const file = join(scratch.folder, 'none.json');
  const result = await helsctl(
    'model',
    'verify',
    '--model',
    model.directory,
    '--golden',
    file,
    '--json',
  );
  expect(JSON.parse(result.stderr)).toEqual({
    error: { code: 'model-invalid', field: file, message: `${file} is missing` },
  });
  expect(result.exitCode).toBe(4);
});
