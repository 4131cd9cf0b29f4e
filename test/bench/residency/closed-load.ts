/** Streams that take the requests of a slice in turn, timed where the client stands. */
import type { HelsClient } from '../../../client/sdk/index.ts';
import { quantile } from '../statistics.ts';
import type { TracedRequest } from './trace-slice.ts';

interface TimedAnswer {
  /** Request sent to first token. */
  firstSeconds: number;
  /** (last - first token) / (tokens - 1). */
  perTokenSeconds: number;
}

export interface ClosedLoadResult {
  seconds: number;
  /** Of the answers. */
  tokens: number;
  tokensPerSecond: number;
  firstTokenSeconds: { p50: number; p95: number };
  perTokenSeconds: { p50: number; p95: number };
  /** Token ids of every answer, by request. */
  answers: string[];
}

async function answer(client: HelsClient, { promptTokenIds, maxTokens }: TracedRequest) {
  const sentMs = performance.now();
  let firstMs = 0;
  let lastMs = 0;
  const tokenIds: number[] = [];
  const options = { maxTokens, ignoreEndOfText: true, prefixCache: false };
  for await (const event of client.generate({ promptTokenIds }, options)) {
    if (event.type !== 'delta' || event.tokenIds.length === 0) continue;
    lastMs = performance.now();
    if (tokenIds.length === 0) firstMs = lastMs;
    tokenIds.push(...event.tokenIds);
  }
  if (tokenIds.length !== maxTokens) {
    throw new Error(`an answer of ${maxTokens} tokens had ${tokenIds.length}`);
  }
  const timed: TimedAnswer = {
    firstSeconds: (firstMs - sentMs) / 1000,
    perTokenSeconds: (lastMs - firstMs) / 1000 / (tokenIds.length - 1),
  };
  return { timed, tokenIds };
}

const percentiles = (values: readonly number[]) => ({
  p50: quantile(values, 0.5),
  p95: quantile(values, 0.95),
});

export async function runClosedLoad(
  client: HelsClient,
  requests: readonly TracedRequest[],
  streams: number,
): Promise<ClosedLoadResult> {
  const timed: TimedAnswer[] = [];
  const answers: string[] = [];
  let next = 0;
  const stream = async () => {
    for (;;) {
      const index = next;
      const request = requests[index];
      if (request === undefined) return;
      next += 1;
      const result = await answer(client, request);
      timed.push(result.timed);
      answers[index] = result.tokenIds.join();
    }
  };
  const startMs = performance.now();
  await Promise.all(Array.from({ length: streams }, stream));
  const seconds = (performance.now() - startMs) / 1000;
  const tokens = requests.reduce((sum, { maxTokens }) => sum + maxTokens, 0);
  return {
    seconds,
    tokens,
    tokensPerSecond: tokens / seconds,
    firstTokenSeconds: percentiles(timed.map(({ firstSeconds }) => firstSeconds)),
    perTokenSeconds: percentiles(timed.map(({ perTokenSeconds }) => perTokenSeconds)),
    answers,
  };
}
