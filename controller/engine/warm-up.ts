/** One real generation through every rank before anybody is served: proof that it works, its known answer, and its measured steps. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { MeasuredSteps } from '../deployment/plan-report.ts';
import { warmUpSize } from '../deployment/warm-up-size.ts';
import type { StepLoop } from './step-loop.ts';
import type { StepMeasurement } from './step-measurement.ts';

const { promptTokens, decodeTokens } = warmUpSize;

/** Medians are over the full decode steps. */
interface WarmUpResult extends MeasuredSteps {
  /** The greedy tokens: equal for every split of the same model under exact numerics. */
  answer: number[];
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}

/** Token ids that any model has, spread over its vocabulary. */
function fixedPrompt(vocabRows: number): number[] {
  return Array.from({ length: promptTokens }, (_, index) => (1 + index * 7919) % vocabRows);
}

/** A short generation whose tokens are the same for every split of the model. */
export async function knownAnswer(
  loop: StepLoop,
  requestId: string,
  vocabRows: number,
): Promise<number[]> {
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

/** More would take long to prefill, and the first would have ended before the last decodes. */
const batchMax = 64;

/** `measurements` grows while the loop runs; `exact` demands that equal prompts get equal tokens whatever the batch. */
export async function warmUp(
  loop: StepLoop,
  sequences: number,
  vocabRows: number,
  exact: boolean,
  measurements: readonly StepMeasurement[],
): Promise<WarmUpResult> {
  const alone = await knownAnswer(loop, 'warm-up-alone', vocabRows);
  const first = measurements.length;
  const batch = Math.min(sequences, loop.sequencesMax, batchMax);
  const together = await Promise.all(
    Array.from({ length: batch }, (_, index) => knownAnswer(loop, `warm-up-${index}`, vocabRows)),
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
  return { answer: alone, ...mediansOf(steps, batch) };
}

function mediansOf(steps: readonly StepMeasurement[], sequences: number): MeasuredSteps {
  const ranks = steps[0]?.rankComputeSeconds.length ?? 0;
  return {
    sequences,
    contextTokens: Math.round(median(steps.map((step) => step.contextTokens))),
    rankSeconds: Array.from({ length: ranks }, (_, rank) =>
      median(steps.map((step) => step.rankComputeSeconds[rank] ?? 0)),
    ),
    stepSeconds: median(steps.map((step) => step.totalSeconds)),
  };
}

/** Steps at one batch that say something of it. */
const stepsMin = 8;

/** Of the batch that most of the decode steps have; null while there are too few of them. */
export function measuredOf(decodes: readonly StepMeasurement[]): MeasuredSteps | null {
  const counts = new Map<number, number>();
  for (const { sequences } of decodes) counts.set(sequences, (counts.get(sequences) ?? 0) + 1);
  const [most] = [...counts].sort(([, left], [, right]) => right - left);
  if (most === undefined || most[1] < stepsMin) return null;
  const [batch] = most;
  return mediansOf(
    decodes.filter(({ sequences }) => sequences === batch),
    batch,
  );
}
