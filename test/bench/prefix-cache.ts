/**
 * What a shared system prompt costs with the prefix cache and without, through the OpenAI endpoint of real daemons. The cache is switched
 * by request and the rounds alternate, so both sides see the same machine.
 */
import { basename } from 'node:path';
import OpenAI from 'openai';
import { atLeast, atMost, type Benchmark, type Goal } from './benchmark.ts';
import { withCluster } from './cluster.ts';
import { randomModel, shape110M, shape1100M } from './random-model.ts';
import { median } from './statistics.ts';

const ownTokens = 32;
const outputTokens = 16;
/** Positions of a KV block: only whole blocks are shared. */
const blockTokens = 16;

/** Models with a system prompt that leaves room for its own text and an answer in the model's positions. */
const loads = [
  { shape: shape110M, systemTokens: 960, streamCounts: [1, 8], rounds: 5 },
  { shape: shape1100M, systemTokens: 1920, streamCounts: [1], rounds: 5 },
];

const words = (tokens: number, seed: number): number[] =>
  Array.from({ length: tokens }, (_, index) => 300 + ((index * 7919 + seed * 104_729) % 700));

interface Answer {
  firstTokenSeconds: number;
  computedTokens: number;
  text: string;
}

async function ask(client: OpenAI, model: string, prompt: number[], cached: boolean) {
  const sentMs = performance.now();
  const stream = await client.completions.create({
    ...{ model, prompt, max_tokens: outputTokens, temperature: 0, stream: true as const },
    stream_options: { include_usage: true },
    // Not OpenAI's: every answer has its full length, and the cache is a choice.
    ...{ ignore_eos: true, prefix_cache: cached },
  });
  const answer: Answer = { firstTokenSeconds: 0, computedTokens: Number.NaN, text: '' };
  for await (const { choices, usage } of stream) {
    if (choices.length > 0 && answer.firstTokenSeconds === 0) {
      answer.firstTokenSeconds = (performance.now() - sentMs) / 1000;
    }
    answer.text += choices[0]?.text ?? '';
    if (usage) {
      answer.computedTokens =
        usage.prompt_tokens - (usage.prompt_tokens_details?.cached_tokens ?? 0);
    }
  }
  return answer;
}

interface Round {
  cached: boolean;
  answers: Answer[];
}

/** Each round without and with the cache, the same prompts; throws when an answer depends on it. */
async function runRounds(
  client: OpenAI,
  model: string,
  system: readonly number[],
  streams: number,
  rounds: number,
): Promise<Round[]> {
  const results: Round[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const prompts = Array.from({ length: streams }, (_, stream) => [
      ...system,
      ...words(ownTokens, 1000 + round * streams + stream),
    ]);
    const run = async (cached: boolean) => {
      const answers = prompts.map((prompt) => ask(client, model, prompt, cached));
      results.push({ cached, answers: await Promise.all(answers) });
    };
    // Which side comes first alternates too.
    await run(round % 2 === 1);
    await run(round % 2 === 0);
    const [one, other] = results.slice(-2).map(({ answers }) => answers.map(({ text }) => text));
    if (String(one) !== String(other)) throw new Error('the cache changed an answer');
  }
  return results;
}

const medianOf = (rounds: readonly Round[], cached: boolean, of: (answer: Answer) => number) =>
  median(
    rounds.filter((round) => round.cached === cached).flatMap(({ answers }) => answers.map(of)),
  );

function compare(model: string, streams: number, systemTokens: number, rounds: readonly Round[]) {
  const rows = [false, true].map((cached) => ({
    model,
    streams,
    cache: cached ? 'on' : 'off',
    'prompt tokens': systemTokens + ownTokens,
    'computed tokens': medianOf(rounds, cached, ({ computedTokens }) => computedTokens),
    'TTFT ms': 1000 * medianOf(rounds, cached, ({ firstTokenSeconds }) => firstTokenSeconds),
  }));
  const [off, on] = rows;
  const speedUp = (off?.['TTFT ms'] ?? Number.NaN) / (on?.['TTFT ms'] ?? Number.NaN);
  const name = `${model}, ${streams} stream(s)`;
  const goals: Goal[] = [
    atMost(
      `${name}: prompt tokens computed, cache on`,
      on?.['computed tokens'] ?? Number.NaN,
      ownTokens + blockTokens,
    ),
    atLeast(`${name}: TTFT off / on`, speedUp, 5),
  ];
  return { rows, goals };
}

export const prefixCache: Benchmark = {
  name: 'prefix-cache',
  summary: 'TTFT and prompt tokens computed under a shared system prompt, prefix cache on and off',
  async run(log) {
    const results: ReturnType<typeof compare>[] = [];
    for (const { shape, systemTokens, streamCounts, rounds } of loads) {
      const modelPath = await randomModel(shape);
      const model = basename(modelPath);
      await withCluster([{ device: 'cpu?threads=2', core: null }], null, async (cluster) => {
        const sequences = Math.max(...streamCounts);
        const contextTokens = systemTokens + ownTokens + outputTokens;
        const workload = { sequences, contextTokens, outputTokens };
        await cluster.deploy({ modelPath, workload });
        const baseURL = `${cluster.cluster.httpUrl}/v1`;
        const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0 });
        const system = words(systemTokens, 1);
        await ask(client, model, [...system, ...words(ownTokens, 999)], true);
        for (const streams of streamCounts) {
          log(`${model}, ${streams} stream(s), ${rounds} rounds without and with the cache`);
          const measured = await runRounds(client, model, system, streams, rounds);
          results.push(compare(model, streams, systemTokens, measured));
        }
      });
    }
    return {
      tables: [
        {
          title: `shared system prompt, ${ownTokens} tokens of its own, medians over the answers`,
          rows: results.flatMap(({ rows }) => rows),
        },
      ],
      goals: results.flatMap(({ goals }) => goals),
      notes: [
        'the system prompt has been asked once before; without the cache every answer computes it again',
        'streams of a round are sent at once: without the cache their prompts share the steps',
        'every answer had the same text with the cache and without',
      ],
    };
  },
};
