/** A load of requests on the served model, timed where the client stands. */
import { type HelsError, toHelsError } from '../../proto/domain/errors.ts';
import { quantile } from '../../proto/domain/quantile.ts';
import type { HelsClient } from '../sdk/index.ts';

export interface RequestLoad {
  /** Requests that are under way at once. */
  streams: number;
  requests: number;
  promptTokens: number;
  outputTokens: number;
  /** Prompts differ by request and seed, so that no request finds another's prefix. */
  seed: number;
  /** Empty: whatever is served. */
  model: string;
  /** Of each request. */
  priority: number;
}

/** Seconds. */
interface Percentiles {
  p50: number;
  p95: number;
  p99: number;
}

export interface LoadReport {
  requests: number;
  /** Failed, by error code. */
  failed: Record<string, number>;
  /** From the first request to the last answer. */
  seconds: number;
  promptTokens: number;
  outputTokens: number;
  outputTokensPerSecond: number;
  /** Request sent to first token. */
  timeToFirstTokenSeconds: Percentiles;
  /** Of an answer: (last - first token) / (tokens - 1). */
  timePerOutputTokenSeconds: Percentiles;
}

export interface Answer {
  promptTokens: number;
  outputTokens: number;
  firstTokenSeconds: number;
  perTokenSeconds: number;
}

/** Ids that any vocabulary of 1,000 or more has, mostly no special ones. */
const firstTokenId = 300;
const tokenIds = 700;

/** Another prompt for every seed. */
export function promptOf(tokens: number, seed: number): number[] {
  return Array.from(
    { length: tokens },
    (_, index) => firstTokenId + ((index * 7919 + seed * 104_729) % tokenIds),
  );
}

const percentilesOf = (values: readonly number[]): Percentiles => {
  const sorted = values.toSorted((left, right) => left - right);
  return { p50: quantile(sorted, 0.5), p95: quantile(sorted, 0.95), p99: quantile(sorted, 0.99) };
};

export function loadReportOf(
  answers: readonly Answer[],
  failures: readonly HelsError[],
  seconds: number,
): LoadReport {
  const failed: Record<string, number> = {};
  for (const { code } of failures) failed[code] = (failed[code] ?? 0) + 1;
  const outputTokens = answers.reduce((sum, answer) => sum + answer.outputTokens, 0);
  return {
    requests: answers.length + failures.length,
    failed,
    seconds,
    promptTokens: answers.reduce((sum, answer) => sum + answer.promptTokens, 0),
    outputTokens,
    outputTokensPerSecond: seconds > 0 ? outputTokens / seconds : 0,
    timeToFirstTokenSeconds: percentilesOf(answers.map((answer) => answer.firstTokenSeconds)),
    // One token has no time to the next.
    timePerOutputTokenSeconds: percentilesOf(
      answers.flatMap(({ outputTokens: tokens, perTokenSeconds }) =>
        tokens > 1 ? [perTokenSeconds] : [],
      ),
    ),
  };
}

async function answerOf(
  client: HelsClient,
  load: RequestLoad,
  request: number,
  signal: AbortSignal,
  nowMs: () => number,
): Promise<Answer> {
  const options = {
    maxTokens: load.outputTokens,
    ignoreEndOfText: true,
    prefixCache: false,
    priority: load.priority,
    // A break is a failure to be counted.
    resumeForMs: 0,
    ...(load.model === '' ? {} : { model: load.model }),
  };
  const input = { promptTokenIds: promptOf(load.promptTokens, load.seed + request) };
  const sentMs = nowMs();
  let firstMs = 0;
  let lastMs = 0;
  let outputTokens = 0;
  for await (const event of client.generate(input, options, { signal })) {
    if (event.type !== 'delta' || event.tokenIds.length === 0) continue;
    lastMs = nowMs();
    if (outputTokens === 0) firstMs = lastMs;
    outputTokens += event.tokenIds.length;
  }
  return {
    promptTokens: load.promptTokens,
    outputTokens,
    firstTokenSeconds: (firstMs - sentMs) / 1000,
    perTokenSeconds: (lastMs - firstMs) / 1000 / Math.max(1, outputTokens - 1),
  };
}

/**
 * A request that fails is counted and the load goes on. Throws the first failure when no request came through, as with nobody at the
 * address, and what `signal` was aborted with.
 */
export async function runRequestLoad(
  client: HelsClient,
  load: RequestLoad,
  signal: AbortSignal,
  onAnswer: (done: number) => void,
  nowMs: () => number = () => performance.now(),
): Promise<LoadReport> {
  const answers: Answer[] = [];
  const failures: HelsError[] = [];
  let next = 0;
  const startMs = nowMs();
  const stream = async () => {
    while (next < load.requests) {
      const request = next;
      next += 1;
      try {
        answers.push(await answerOf(client, load, request, signal, nowMs));
      } catch (error) {
        signal.throwIfAborted();
        failures.push(toHelsError(error));
      }
      onAnswer(answers.length + failures.length);
    }
  };
  await Promise.all(Array.from({ length: Math.min(load.streams, load.requests) }, stream));
  if (answers.length === 0 && failures[0] !== undefined) throw failures[0];
  return loadReportOf(answers, failures, (nowMs() - startMs) / 1000);
}
