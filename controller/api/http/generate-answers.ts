/** Carries out /v1/completions and /v1/chat/completions: one generation per choice, whole or as a stream. */
import { HelsError, toHelsError } from '../../../proto/domain/errors.ts';
import type {
  GenerationService,
  PreparedText,
  TextEvent,
  TextLogprob,
} from '../generation-service.ts';
import type { AnswerFormat, FinishReason } from './answer-format.ts';
import { errorAnswer } from './api-error.ts';
import { EventStream } from './event-stream.ts';
import { type Exchange, sendJson } from './exchange.ts';
import { merge } from './merge.ts';
import type { AnswersWanted } from './request-schema.ts';

interface AnswersContext {
  service: GenerationService;
  exchange: Exchange;
  format: AnswerFormat;
  wanted: AnswersWanted;
  createdUnixSeconds: number;
  /** A stream says that it lives when it was silent for so long. */
  streamQuietMs: number;
}

/** One answer under way. */
interface Choice {
  prepared: PreparedText;
  text: string;
  logprobs: TextLogprob[];
  reason: FinishReason;
  promptTokens: number;
  completionTokens: number;
  cachedTokens: number;
}

export async function generateAnswers(context: AnswersContext): Promise<void> {
  const { service, exchange, wanted } = context;
  // One prompt or answer that fails ends the others of its request.
  const others = new AbortController();
  const signal = AbortSignal.any([exchange.signal, others.signal]);
  try {
    const prompts = await Promise.all(
      wanted.requests.map((request) => service.prepare(request, signal)),
    );
    const choices = prompts.flatMap((prepared) => makeChoices(prepared, wanted.n));
    const call = { arrivalMs: exchange.arrivalMs, signal };
    const events = merge(choices.map((choice) => service.run(choice.prepared, call)));
    if (wanted.stream) await streamAnswers(context, choices, events);
    else await sendAnswers(context, choices, events);
  } catch (error) {
    others.abort(toHelsError(error));
    throw error;
  }
}

/** After the largest seed comes 0; no sum is beyond the numbers that are exact. */
function seedAfter(seed: number, count: number): number {
  const left = Number.MAX_SAFE_INTEGER - seed;
  return count <= left ? seed + count : count - left - 1;
}

/** The n answers of one prompt have seeds that follow each other, so a given seed repeats all of them. */
function makeChoices(prepared: PreparedText, n: number): Choice[] {
  return Array.from({ length: n }, (_, i) => ({
    prepared: { ...prepared, seed: seedAfter(prepared.seed, i) },
    text: '',
    logprobs: [],
    reason: 'stop',
    promptTokens: prepared.promptTokenIds.length,
    completionTokens: 0,
    cachedTokens: 0,
  }));
}

type Events = AsyncIterable<{ index: number; item: TextEvent }>;

async function sendAnswers(context: AnswersContext, choices: Choice[], events: Events) {
  const { exchange, format } = context;
  for await (const { index, item } of events) {
    const choice = choices[index];
    if (choice === undefined) continue;
    if (item.type === 'finished') finish(choice, item);
    if (item.type === 'delta') {
      choice.text += item.text;
      choice.logprobs.push(...item.logprobs);
    }
  }
  sendJson(exchange.response, 200, {
    ...head(context, choices, format.objects.whole),
    choices: choices.map((choice, index) => {
      const { text, reason, prepared } = choice;
      const asked = prepared.request.logprobs >= 0;
      const logprobs = asked ? format.logprobs(choice.logprobs, prepared.model.text) : null;
      return format.whole(index, { text, reason, logprobs });
    }),
    usage: usage(choices, context.wanted.n),
  });
}

async function streamAnswers(context: AnswersContext, choices: Choice[], events: Events) {
  const { exchange, format, wanted } = context;
  const stream = new EventStream(exchange.response, exchange.signal, context.streamQuietMs);
  const send = (choice: object | null, total: object | null = null) =>
    stream.send({
      ...head(context, choices, format.objects.chunk),
      choices: choice === null ? [] : [choice],
      ...(wanted.includeUsage ? { usage: total } : {}),
    });
  stream.begin();
  try {
    for await (const { index, item } of events) {
      const choice = choices[index];
      const chunk = choice === undefined ? null : chunkOf(format, choice, index, item);
      if (chunk !== null) await send(chunk);
    }
    if (wanted.includeUsage) await send(null, usage(choices, wanted.n));
    stream.end();
  } catch (error) {
    stream.fail(errorAnswer(error, exchange.requestId));
    throw error;
  }
}

/** The choice of the chunk that tells of this event; null when it has nothing to tell yet. */
function chunkOf(format: AnswerFormat, choice: Choice, index: number, event: TextEvent) {
  if (event.type === 'started') return format.begin(index);
  if (event.type === 'finished') {
    finish(choice, event);
    return format.end(index, event.reason);
  }
  const { text, logprobs } = event;
  if (logprobs.length > 0) {
    return format.delta(index, text, format.logprobs(logprobs, choice.prepared.model.text));
  }
  return text === '' ? null : format.delta(index, text, null);
}

function finish(choice: Choice, event: Extract<TextEvent, { type: 'finished' }>): void {
  choice.reason = event.reason;
  choice.completionTokens = event.completionTokens;
  choice.cachedTokens = event.cachedTokens;
}

/** Fields of every answer and chunk. `hels` is ours: what repeats this answer, and whether it can be repeated bit by bit. */
function head(context: AnswersContext, choices: readonly Choice[], object: string): object {
  const { exchange, format, createdUnixSeconds } = context;
  const first = choices[0]?.prepared;
  if (first === undefined) throw new HelsError('internal', 'an answer without choices');
  const { modelDigest, numericsClass } = first.group;
  return {
    id: `${format.idPrefix}-${exchange.requestId}`,
    object,
    created: createdUnixSeconds,
    model: first.model.modelId,
    system_fingerprint: `${numericsClass}-${modelDigest.slice(0, 16)}`,
    hels: { seed: first.seed, model_digest: modelDigest, numerics_class: numericsClass },
  };
}

/** Each prompt counts once, however many answers it got; what was cached is that of its first answer. */
function usage(choices: readonly Choice[], n: number): object {
  const prompts = choices.filter((_, index) => index % n === 0);
  const promptTokens = prompts.reduce((sum, choice) => sum + choice.promptTokens, 0);
  const cachedTokens = prompts.reduce((sum, choice) => sum + choice.cachedTokens, 0);
  const completionTokens = choices.reduce((sum, choice) => sum + choice.completionTokens, 0);
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  };
}
