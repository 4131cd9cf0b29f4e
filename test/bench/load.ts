/** A load of streams through the OpenAI endpoint, timed where the client stands. */
import OpenAI from 'openai';
import { median } from './statistics.ts';

export interface Load {
  url: string;
  model: string;
  streams: number;
  /** Answers per stream, one after another. */
  rounds: number;
  promptTokens: number;
  outputTokens: number;
  /** Prompts differ by their seeds, which follow each other from here; for runs that must not find each other's prefixes. */
  firstSeed?: number;
}

export interface LoadResult {
  /** Median over the answers: request sent to first token. */
  firstTokenSeconds: number;
  /** Median over the answers: (last - first token) / (tokens - 1). */
  perTokenSeconds: number;
  /** Of all streams together, from the first request sent to the last token. */
  tokensPerSecond: number;
}

interface Answer {
  firstSeconds: number;
  perTokenSeconds: number;
  tokens: number;
}

/** Token ids that every tokenizer here has and that are no special tokens; a different prompt for every answer. */
export function prompt(tokens: number, seed: number): number[] {
  return Array.from(
    { length: tokens },
    (_, index) => 300 + ((index * 7919 + seed * 104_729) % 700),
  );
}

async function answer(client: OpenAI, load: Load, seed: number): Promise<Answer> {
  const sentMs = performance.now();
  const stream = await client.completions.create({
    model: load.model,
    prompt: prompt(load.promptTokens, seed),
    max_tokens: load.outputTokens,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
    // Not OpenAI's: every answer has its full length and computes its whole prompt, which other loads may have had too.
    ...{ ignore_eos: true, prefix_cache: false },
  });
  let firstMs = 0;
  let lastMs = 0;
  let tokens = 0;
  for await (const chunk of stream) {
    if (chunk.choices.length > 0) {
      lastMs = performance.now();
      if (firstMs === 0) firstMs = lastMs;
    }
    tokens = chunk.usage?.completion_tokens ?? tokens;
  }
  if (tokens !== load.outputTokens) {
    throw new Error(`an answer of ${load.outputTokens} tokens had ${tokens}`);
  }
  return {
    firstSeconds: (firstMs - sentMs) / 1000,
    perTokenSeconds: (lastMs - firstMs) / 1000 / (tokens - 1),
    tokens,
  };
}

export async function runLoad(load: Load): Promise<LoadResult> {
  const client = new OpenAI({ baseURL: `${load.url}/v1`, apiKey: 'none', maxRetries: 0 });
  const startMs = performance.now();
  const streams = Array.from({ length: load.streams }, async (_, stream) => {
    const answers: Answer[] = [];
    for (let round = 0; round < load.rounds; round += 1) {
      answers.push(
        await answer(client, load, (load.firstSeed ?? 0) + stream * load.rounds + round),
      );
    }
    return answers;
  });
  const answers = (await Promise.all(streams)).flat();
  const seconds = (performance.now() - startMs) / 1000;
  return {
    firstTokenSeconds: median(answers.map(({ firstSeconds }) => firstSeconds)),
    perTokenSeconds: median(answers.map(({ perTokenSeconds }) => perTokenSeconds)),
    tokensPerSecond: answers.reduce((sum, { tokens }) => sum + tokens, 0) / seconds,
  };
}
