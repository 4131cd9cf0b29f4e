/** A load of streams through the OpenAI endpoint, timed where the client stands. */
import { once } from 'node:events';
import { Agent, type IncomingMessage, request } from 'node:http';
import { promptOf } from '../../client/helsctl/request-load.ts';
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

interface Piece {
  atMs: number;
  text: string;
}

/** An answer as it came. Pieces are only stamped on the way: the client shares a core with what it measures. */
async function streamAnswer(agent: Agent, load: Load, seed: number): Promise<Piece[]> {
  const body = JSON.stringify({
    model: load.model,
    prompt: promptOf(load.promptTokens, seed),
    max_tokens: load.outputTokens,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
    // Not OpenAI's: every answer has its full length and computes its whole prompt, which other loads may have had too.
    ignore_eos: true,
    prefix_cache: false,
  });
  const headers = { 'content-type': 'application/json' };
  const call = request(`${load.url}/v1/completions`, { agent, method: 'POST', headers });
  call.end(body);
  const [response] = (await once(call, 'response')) as [IncomingMessage];
  const pieces: Piece[] = [];
  for await (const text of response.setEncoding('utf8')) {
    pieces.push({ atMs: performance.now(), text });
  }
  if (response.statusCode === 200) return pieces;
  const said = pieces.map(({ text }) => text).join('');
  throw new Error(`POST /v1/completions: ${response.statusCode}: ${said}`);
}

interface Chunk {
  choices: unknown[];
  usage?: { completion_tokens: number } | null;
}

/** The events of an answer, each with the time of the piece that completed it. */
function chunksOf(pieces: readonly Piece[]): { atMs: number; chunk: Chunk }[] {
  const chunks: { atMs: number; chunk: Chunk }[] = [];
  let rest = '';
  for (const { atMs, text } of pieces) {
    const events = (rest + text).split('\n\n');
    rest = events.pop() ?? '';
    for (const event of events) {
      if (!event.startsWith('data: ')) continue;
      const data = event.slice('data: '.length);
      if (data !== '[DONE]') chunks.push({ atMs, chunk: JSON.parse(data) });
    }
  }
  return chunks;
}

async function answer(agent: Agent, load: Load, seed: number): Promise<Answer> {
  const sentMs = performance.now();
  const chunks = chunksOf(await streamAnswer(agent, load, seed));
  const tokens = chunks.at(-1)?.chunk.usage?.completion_tokens;
  if (tokens !== load.outputTokens) {
    throw new Error(`an answer of ${load.outputTokens} tokens had ${tokens}`);
  }
  const tokenTimes = chunks.filter(({ chunk }) => chunk.choices.length > 0);
  const firstMs = tokenTimes[0]?.atMs ?? Number.NaN;
  const lastMs = tokenTimes.at(-1)?.atMs ?? Number.NaN;
  return {
    firstSeconds: (firstMs - sentMs) / 1000,
    perTokenSeconds: (lastMs - firstMs) / 1000 / (tokens - 1),
    tokens,
  };
}

export async function runLoad(load: Load): Promise<LoadResult> {
  const agent = new Agent({ keepAlive: true });
  const startMs = performance.now();
  const streams = Array.from({ length: load.streams }, async (_, stream) => {
    const answers: Answer[] = [];
    for (let round = 0; round < load.rounds; round += 1) {
      answers.push(await answer(agent, load, (load.firstSeed ?? 0) + stream * load.rounds + round));
    }
    return answers;
  });
  const answers = (await Promise.all(streams)).flat();
  const seconds = (performance.now() - startMs) / 1000;
  agent.destroy();
  return {
    firstTokenSeconds: median(answers.map(({ firstSeconds }) => firstSeconds)),
    perTokenSeconds: median(answers.map(({ perTokenSeconds }) => perTokenSeconds)),
    tokensPerSecond: answers.reduce((sum, { tokens }) => sum + tokens, 0) / seconds,
  };
}
