/** One real generation through every rank before anybody is served: proof that it works, its known answer, and its measured steps. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { StepLoop } from './step-loop.ts';
import type { StepMeasurement } from './step-measurement.ts';

const promptTokens = 16;
const decodeTokens = 12;

export interface WarmUpResult {
  /** The greedy tokens: equal for every split of the same model under exact numerics. */
  answer: number[];
  sequences: number;
  contextTokens: number;
  /** Medians over the full decode steps. */
  rankSeconds: number[];
  stepSeconds: number;
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}

/** Token ids that any model has, spread over its vocabulary. */
function fixedPrompt(vocabRows: number): number[] {
  return Array.from({ length: promptTokens }, (_, index) => (1 + index * 7919) % vocabRows);
}

async function answerOf(loop: StepLoop, requestId: string, vocabRows: number): Promise<number[]> {
  const request = {
    requestId,
    promptTokenIds: fixedPrompt(vocabRows),
    sampling: { temperature: 0, topP: 1, topK: 0, seed: 0, logprobs: -1 },
    maxTokens: decodeTokens,
    stopTokenIds: [],
    // Every rank computes all of it, and nothing of it stays.
    prefixCache: null,
  };
  const answer: number[] = [];
  for await (const event of loop.submit(request, new AbortController().signal)) {
    if (event.type === 'failed') throw event.error;
    if (event.type === 'token') answer.push(event.tokenId);
  }
  return answer;
}

/** `measurements` grows while the loop runs; `exact` demands that equal prompts get equal tokens whatever the batch. */
export async function warmUp(
  loop: StepLoop,
  sequences: number,
  vocabRows: number,
  exact: boolean,
  measurements: readonly StepMeasurement[],
): Promise<WarmUpResult> {
  const alone = await answerOf(loop, 'warm-up-alone', vocabRows);
  const first = measurements.length;
  const batch = Math.min(sequences, loop.sequencesMax);
  const together = await Promise.all(
    Array.from({ length: batch }, (_, index) => answerOf(loop, `warm-up-${index}`, vocabRows)),
  );
  const different = together.find((answer) => String(answer) !== String(alone));
  if (exact && different !== undefined) {
    throw new HelsError(
      'internal',
      `exact numerics failed the warm-up: alone ${alone.join(' ')}, in a batch of ${batch} ${different.join(' ')}`,
    );
  }
  const steps = measurements
    .slice(first)
    .filter((step) => step.decodeOnly && step.sequences === batch);
  const ranks = steps[0]?.rankComputeSeconds.length ?? 0;
  return {
    answer: alone,
    sequences: batch,
    contextTokens: Math.round(median(steps.map((step) => step.contextTokens))),
    rankSeconds: Array.from({ length: ranks }, (_, rank) =>
      median(steps.map((step) => step.rankComputeSeconds[rank] ?? 0)),
    ),
    stepSeconds: median(steps.map((step) => step.totalSeconds)),
  };
}
