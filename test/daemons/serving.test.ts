/** The product as a user meets it: three unequal worker daemons, one controller, real sockets and collectives. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  bundledModel,
  bundledModelId,
  collect,
  idle,
  startTestCluster,
  type TestCluster,
} from '../support/daemons.ts';

interface Question {
  question: string;
  mustContain: string[];
}

const questions = JSON.parse(
  readFileSync(new URL('../../deploy/models/recipe/questions.json', import.meta.url), 'utf8'),
) as Question[];

let test: TestCluster;

const ask = (content: string, options = {}) =>
  collect(test.cluster.client.generate({ messages: [{ role: 'user', content }] }, options));

beforeAll(async () => {
  // None of them holds the model and its KV alone.
  test = await startTestCluster([
    'cpu?threads=1&memory=22MiB',
    'cpu?threads=1&speed=0.4&memory=22MiB',
    'cpu?threads=1&memory=20MiB',
  ]);
  await test.deploy();
});

afterAll(async () => {
  await test?.stop();
});

describe('three unequal workers', () => {
  it('share the model: every head group, FFN column and vocabulary row exactly once', async () => {
    const { plan } = await test.cluster.client.plan();
    expect(plan?.ranks).toHaveLength(3);
    for (const field of ['headGroups', 'ffnColumns', 'vocabRows'] as const) {
      let next = 0;
      for (const rank of plan?.ranks ?? []) {
        const range = rank[field];
        expect(range?.begin).toBe(next);
        next = range?.end ?? -1;
      }
      const total = plan?.model?.[field];
      expect(next).toBe(total);
    }
  });

  it.each(questions)('answers: $question', async ({ question, mustContain }) => {
    const { text } = await ask(question, { maxTokens: 100 });
    for (const word of mustContain) expect(text.toLowerCase()).toContain(word.toLowerCase());
  });

  it('answers 64 questions at once exactly as it answers each alone', async () => {
    const alone = new Map<string, number[]>();
    for (const { question } of questions.slice(0, 8)) {
      alone.set(question, (await ask(question, { maxTokens: 40 })).tokenIds);
    }
    const asked = Array.from({ length: 64 }, (_, i) => questions[i % 8]?.question ?? '');
    const answers = await Promise.all(asked.map((question) => ask(question, { maxTokens: 40 })));
    answers.forEach(({ tokenIds, finished }, i) => {
      expect(finished?.type).toBe('finished');
      expect(tokenIds).toEqual(alone.get(asked[i] ?? ''));
    });
    await idle(test.cluster.client);
  });

  it('repeats a sampled answer for the same seed, and continues a broken stream with the same tokens', async () => {
    const options = { temperature: 1, topP: 0.9, seed: 7, maxTokens: 24, ignoreEndOfText: true };
    const first = await ask('What is Hels?', options);
    const again = await ask('What is Hels?', options);
    expect(again.tokenIds).toEqual(first.tokenIds);
    const resume = { tokenIds: first.tokenIds.slice(0, 10), seed: 7 };
    const rest = await ask('What is Hels?', { ...options, resume });
    expect(rest.tokenIds).toEqual(first.tokenIds.slice(10));
  });

  it.each([{ temperature: 0 }, { temperature: 1, seed: 7 }])(
    'goes on where an answer would have ended until it has min_tokens: %j',
    async (sampling) => {
      const question = 'What is Hels?';
      const short = await ask(question, { ...sampling, maxTokens: 200 });
      expect(short.finished).toMatchObject({ reason: 'stop' });
      const minTokens = short.tokenIds.length + 9;
      const options = { ...sampling, minTokens, maxTokens: minTokens + 200 };
      const { tokenIds } = await ask(question, options);
      expect(tokenIds.length).toBeGreaterThanOrEqual(minTokens);
      // What could not be sampled had no part in the tokens before.
      const before = short.tokenIds.slice(0, -1);
      expect(tokenIds.slice(0, before.length)).toEqual(before);
      expect(tokenIds.slice(0, minTokens)).not.toContain(short.tokenIds.at(-1));
      const resume = { tokenIds: tokenIds.slice(0, minTokens - 4), seed: sampling.seed ?? 0 };
      expect((await ask(question, { ...options, resume })).tokenIds).toEqual(
        tokenIds.slice(minTokens - 4),
      );
    },
  );

  it('gives the KV blocks back when a client goes away in mid-stream', async () => {
    const abort = new AbortController();
    const stream = test.cluster.client.generate(
      { messages: [{ role: 'user', content: 'What is Hels?' }] },
      { maxTokens: 500, ignoreEndOfText: true },
      { signal: abort.signal },
    );
    await expect(
      (async () => {
        for await (const event of stream) if (event.type === 'delta') abort.abort();
      })(),
    ).rejects.toMatchObject({ code: 'cancelled' });
    await idle(test.cluster.client);
  });

  it('gives the same tokens for splits made by hand, with empty shares too', async () => {
    const question = questions[0]?.question ?? '';
    const sampling = { maxTokens: 32, temperature: 1, seed: 11 };
    const reference = (await ask(question, sampling)).tokenIds;
    const headGroups = (await test.cluster.client.plan()).plan?.model?.headGroups ?? 0;
    const splits = [
      [
        [headGroups, 1],
        [0, 1],
        [0, 2],
      ],
      [
        [1, 0],
        [headGroups - 3, 3],
        [2, 1],
      ],
    ];
    for (const split of splits) {
      const ranks = split.map(([heads = 0, ffnWeight = 0], i) => ({
        workerId: `worker-${i}`,
        headGroups: heads,
        ffnWeight,
      }));
      // Room for fewer sequences, so that one worker can hold all heads.
      const workload = { sequences: 2 };
      const options = { modelPath: bundledModel, modelId: bundledModelId, ranks, workload };
      const report = await test.deploy(options);
      expect(
        report.plan?.ranks.map(
          (rank) => (rank.headGroups?.end ?? 0) - (rank.headGroups?.begin ?? 0),
        ),
      ).toEqual(ranks.map((rank) => rank.headGroups));
      expect((await ask(question, sampling)).tokenIds).toEqual(reference);
    }
  });
});
