/** Three equal workers, real sockets and collectives: what OpenAI's own client can do with them, and equal bits whatever the split. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openaiContract } from '../contract/openai-api.contract.ts';
import {
  type Answer,
  bundledModelId,
  collect,
  idle,
  startTestCluster,
  type TestCluster,
} from '../support/daemons.ts';

let test: TestCluster;

const headGroups = 8;
/** Head groups and relative weight of the FFN columns, by worker. */
const splits: [number, number][][] = [
  [[headGroups, 1]],
  [
    [5, 1],
    [3, 4],
  ],
  [
    [0, 3],
    [7, 0],
    [1, 1],
  ],
];

/** Sixteen requests that differ in prompt, seed and sampling: greedy, temperature, top_p and top_k. */
function ask(index: number): Promise<Answer> {
  const prompts = ['What is Hels?', 'What is an epoch?', 'A head group is', 'Every token'];
  const samplings = [
    {},
    { temperature: 1 },
    { temperature: 0.8, topP: 0.9 },
    { temperature: 1.2, topK: 20 },
  ];
  const options = {
    ...samplings[index % samplings.length],
    seed: index + 1,
    maxTokens: 20 + index,
    logprobs: 2,
    ignoreEndOfText: true,
  };
  const prompt = prompts[Math.floor(index / samplings.length)] ?? '';
  return collect(test.cluster.client.generate({ prompt }, options));
}

/** Token ids, and the bits of each logprob as f32. */
function bitsOf(answers: readonly Answer[]) {
  return answers.map(({ tokenIds, logprobs }) => ({
    tokenIds,
    logprobBits: [...new Uint32Array(new Float32Array(logprobs).buffer)],
  }));
}

beforeAll(async () => {
  test = await startTestCluster(['cpu?threads=1', 'cpu?threads=1', 'cpu?threads=1']);
  await test.deploy({ policy: 'equal' });
});

afterAll(async () => {
  await test?.stop();
});

openaiContract(() => ({
  baseUrl: test.cluster.httpUrl,
  model: bundledModelId,
  contextTokensMax: 1024,
  idle: () => idle(test.cluster.client),
}));

describe('tokens and logprobs', () => {
  const indices = Array.from({ length: 16 }, (_, index) => index);
  let reference: ReturnType<typeof bitsOf>;

  it.each(splits.map((split) => ({ split })))(
    'are the same bits alone and beside 15 others, split as $split',
    async ({ split }) => {
      const ranks = split.map(([heads, ffnWeight], index) => ({
        workerId: `worker-${index}`,
        headGroups: heads,
        ffnWeight,
      }));
      const report = await test.deploy({ modelId: bundledModelId, ranks });
      expect(report.numericsClass).toBe('exact');
      expect(report.ranks).toHaveLength(split.length);
      const alone: Answer[] = [];
      for (const index of indices) alone.push(await ask(index));
      const together = await Promise.all(indices.map(ask));
      for (const { tokenIds, logprobs } of alone) expect(logprobs).toHaveLength(tokenIds.length);
      reference ??= bitsOf(alone);
      expect(reference.every(({ tokenIds }) => tokenIds.length >= 20)).toBe(true);
      expect(bitsOf(alone)).toEqual(reference);
      expect(bitsOf(together)).toEqual(reference);
    },
    60_000,
  );
});
