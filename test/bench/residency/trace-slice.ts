/** Requests with the lengths of the Azure conversation trace, scaled down to what a CPU answers in seconds. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promptOf } from '../../../client/helsctl/request-load.ts';
import { parseTrace } from '../../../controller/simulator/trace/parse-trace.ts';

export interface TracedRequest {
  promptTokenIds: number[];
  maxTokens: number;
}

export const tracePath = join(
  process.env['HELS_SHARED'] ?? '../shared',
  'data',
  'traces',
  'azure-llm-2023-conv.csv',
);

export const hasTrace = () => existsSync(tracePath);

/**
 * A CPU prefills ten times as many tokens a second as it decodes at batch 1, a GPU a hundred times: prompts are divided by more, so that
 * they take a similar share of the time.
 */
export const promptDivisor = 4;
export const answerDivisor = 1;
/** The first minutes of the trace are short questions. */
export const firstRequest = 100;
const promptTokensMin = 8;
const answerTokensMin = 8;

/** `count` requests of the trace from `firstRequest` on that have at most `contextTokensMax` tokens once scaled, in the order of arrival. */
export function traceSlice(count: number, contextTokensMax: number): TracedRequest[] {
  const trace = parseTrace(readFileSync(tracePath, 'utf8'), firstRequest + 4 * count);
  const scaled = trace.slice(firstRequest).map(({ promptTokens, outputTokens }) => ({
    promptTokens: Math.max(promptTokensMin, Math.round(promptTokens / promptDivisor)),
    maxTokens: Math.max(answerTokensMin, Math.round(outputTokens / answerDivisor)),
  }));
  const fitting = scaled.filter((one) => one.promptTokens + one.maxTokens <= contextTokensMax);
  if (fitting.length < count) throw new Error(`the trace has ${fitting.length} of ${count}`);
  return fitting.slice(0, count).map(({ promptTokens, maxTokens }, index) => ({
    promptTokenIds: promptOf(promptTokens, index),
    maxTokens,
  }));
}
