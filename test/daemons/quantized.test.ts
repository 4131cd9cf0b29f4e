/** A quantised model over real workers: the same tokens and logprobs on one rank and on two, from the files and quantised at load. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PlanReport } from '../../client/sdk/index.ts';
import { quantizeModel } from '../../worker/tools/quantize.ts';
import {
  type Answer,
  bundledModel,
  bundledModelId,
  collect,
  startTestCluster,
  type TestCluster,
} from '../support/daemons.ts';

const folder = mkdtempSync(join(tmpdir(), 'hels-quantized-'));
const int8 = join(folder, 'hels-tiny-int8');
let test: TestCluster;

const splits = {
  whole: [{ workerId: 'worker-0', headGroups: 8, ffnWeight: 1 }],
  two: [
    { workerId: 'worker-0', headGroups: 3, ffnWeight: 5 },
    { workerId: 'worker-1', headGroups: 5, ffnWeight: 2 },
  ],
};

beforeAll(async () => {
  const onProgress = () => undefined;
  await quantizeModel({ source: bundledModel, target: int8, bits: 8, force: false, onProgress });
  test = await startTestCluster(['cpu?threads=1', 'cpu?threads=1']);
});

afterAll(async () => {
  await test?.stop();
  rmSync(folder, { recursive: true, force: true });
});

const plannedBytes = ({ plan }: PlanReport) => plan?.ranks[0]?.weightBytes ?? NaN;

async function answers(): Promise<Pick<Answer, 'tokenIds' | 'logprobs'>[]> {
  const prompts = ['What is Hels?', 'A head group is'];
  const all = await Promise.all(
    prompts.map((prompt, index) => {
      const options = { seed: index + 1, maxTokens: 24, logprobs: 1, temperature: index };
      return collect(
        test.cluster.client.generate({ prompt }, { ...options, ignoreEndOfText: true }),
      );
    }),
  );
  return all.map(({ tokenIds, logprobs }) => ({ tokenIds, logprobs }));
}

describe('quantised weights', () => {
  it('give the same tokens for every split and way to quantise, in less memory', async () => {
    const modelId = bundledModelId;
    const plain = await test.deploy({ modelId, ranks: splits.whole });
    const plainAnswers = await answers();
    const whole = await test.deploy({ modelId, ranks: splits.whole, quantization: 'int8' });
    const expected = await answers();
    expect(expected).not.toEqual(plainAnswers);
    expect(plannedBytes(whole)).toBeLessThan(0.8 * plannedBytes(plain));
    // Read are the bf16 files; kept is less.
    expect(whole.ranks[0]!.weightBytesLoaded).toBe(plain.ranks[0]!.weightBytesLoaded);

    const two = await test.deploy({ modelId, ranks: splits.two, quantization: 'int8' });
    expect(two.numericsClass).toBe('exact');
    expect(two.ranks).toHaveLength(2);
    expect(await answers()).toEqual(expected);

    const files = await test.deploy({ modelId, modelPath: int8, ranks: splits.two });
    expect(await answers()).toEqual(expected);
    expect(files.ranks[0]!.weightBytesLoaded).toBeLessThan(0.75 * two.ranks[0]!.weightBytesLoaded);

    await test.deploy({ modelId, ranks: splits.two, quantization: 'int4' });
    expect(await answers()).not.toEqual(expected);
  }, 120_000);

  it('refuse what cannot be: other bits than the files have, and fast numerics', async () => {
    await expect(test.deploy({ modelPath: int8, quantization: 'int4' })).rejects.toMatchObject({
      code: 'model-invalid',
      message: expect.stringContaining('int8 already'),
    });
    await expect(test.deploy({ modelPath: int8, numerics: 'fast' })).rejects.toMatchObject({
      code: 'config-invalid',
      message: expect.stringContaining('exact numerics only'),
    });
  });
});
