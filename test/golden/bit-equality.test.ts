/** Exact numerics: one hash of the logits for every split and every chunking, of each kind of model. */
import { describe, expect, test } from 'vitest';
import { longGoldens, shortGolden } from '../support/golden-models.ts';
import { hashOfRows, logitsOf, someTokens, splitDirectory } from '../support/local-logits.ts';
import { readSafetensors, tensorBytes } from '../support/safetensors.ts';
import { verify } from '../support/verify.ts';

/** More than one chunk of 64 and a ragged end; the models have 128 positions. */
const longPromptTokens = 117;

/** h/w of each rank: head groups and relative FFN (and vocabulary) weight. */
const twoGroups = [
  '1/1,1/1', // even
  '1/3,1/1', // FFN columns apart from heads
  '2/1,0/1', // a rank without heads
  '0/5,2/3', // the first rank without heads
  '1/0,1/1', // a rank without FFN columns and vocabulary rows
  '1/1,1/1,0/1', // three ranks, one without heads
  '1/7,0/1,1/3',
  '1/1,0/0,1/1', // a rank with nothing at all
  '1/1,1/1,0/1,0/1', // four ranks
  '0/1,1/2,0/0,1/5',
];
const eightGroups = [
  '4/1,4/1',
  '7/1,1/3',
  '8/1,0/1',
  '0/1,8/1',
  '3/0,5/1',
  '3/1,3/1,2/1',
  '5/7,0/1,3/3',
  '1/1,0/0,7/1',
  '2/1,2/1,2/1,2/1',
  '0/1,5/2,1/0,2/5',
];
const models = [
  { name: 'llama-gqa', splits: twoGroups },
  { name: 'llama-gqa-bf16', splits: twoGroups },
  { name: 'llama-mha-tied', splits: eightGroups },
  { name: 'opt-pre', splits: eightGroups },
];

describe.each(models)('$name', ({ name, splits }) => {
  const model = shortGolden(name);
  const fileBytes = tensorBytes(readSafetensors(`${model.directory}/model.safetensors`));

  test.each(splits)('split %s: same bits; loaded bytes add up to the file', async (ranks) => {
    const whole = await verify(model);
    const report = await verify(model, { ranks });
    expect(report.logitsSha256).toBe(whole.logitsSha256);
    expect(report.greedyTokens).toEqual(whole.greedyTokens);
    expect(report.maxDifference).toBe(whole.maxDifference);

    const replicated = report.ranks[0]!.weightBytesReplicated;
    expect(report.ranks.map((rank) => rank.weightBytesReplicated)).toEqual(
      report.ranks.map(() => replicated),
    );
    const loaded = report.ranks.reduce((sum, rank) => sum + rank.weightBytesLoaded, 0);
    expect(loaded).toBe(fileBytes + (report.ranks.length - 1) * replicated);
    expect(replicated).toBe(whole.ranks[0]!.weightBytesReplicated);
  });

  test('chunks of 1, 7, 16, 64 tokens and the whole prompt: same bits, on one rank and on three', async () => {
    const three = splits.find((ranks) => ranks.split(',').length === 3)!;
    const hashes = new Set<string>();
    for (const ranks of [null, three]) {
      const split = await splitDirectory(model.directory, ranks);
      const tokens = someTokens(longPromptTokens, split.model.vocabRows, 1);
      for (const chunk of [1, 7, 16, 64, longPromptTokens]) {
        hashes.add(hashOfRows(await logitsOf(split, tokens, chunk)));
      }
    }
    expect(hashes.size).toBe(1);
  });
});

describe('prompts of 300 tokens', () => {
  if (longGoldens === null) test.skip('not there: HELS_SHARED has no goldens/', () => undefined);
  else {
    test.each(longGoldens)('$name: same bits for splits and chunks', async (model) => {
      const { model: spec } = await splitDirectory(model.directory, null);
      const whole = await verify(model);
      const rest = spec.headGroups - 1;
      const runs = [
        { ranks: `1/1,${rest}/3`, chunk: 7 },
        { ranks: `${rest}/1,0/2,1/0`, chunk: 64 },
        { ranks: `1/1,${rest - 1}/1,0/1,1/5`, chunk: 16 },
        { ranks: null, chunk: 1 },
      ];
      for (const run of runs) {
        expect((await verify(model, run)).logitsSha256).toBe(whole.logitsSha256);
      }
    });
  }
});

test('another weight type or another model has another hash', async () => {
  const hashes = await Promise.all([
    verify(shortGolden('llama-gqa')),
    verify(shortGolden('llama-gqa'), { dtype: 'bf16' }),
    verify(shortGolden('llama3-rope')),
  ]);
  expect(new Set(hashes.map((report) => report.logitsSha256)).size).toBe(3);
});
