/** Random schedules of requests: who comes when, how long it is, who goes away half way. Repeatable by their seed. */

import { promptOf } from '../../../client/helsctl/request-load.ts';
import type { HelsClient } from '../../../client/sdk/index.ts';

export interface ScheduledRequest {
  /** Its number among those whose answers are known. */
  which: number;
  delayMs: number;
  /** Tokens after which the client goes away; null: it stays. */
  cancelAfter: number | null;
}

export interface Question {
  promptTokenIds: number[];
  maxTokens: number;
  temperature: number;
  seed: number;
  prefixCache: boolean;
}

/** Repeatable whole numbers from 0 to `below` - 1. */
export function randomNumbers(seed: number): (below: number) => number {
  let state = 1 + (seed % 2_147_483_646);
  const next = () => {
    state = (state * 48_271) % 2_147_483_647;
    return state;
  };
  // Neighbouring seeds begin alike.
  for (let index = 0; index < 8; index += 1) next();
  return (below) => next() % below;
}

/** Prompts of 1 to 148 tokens, a third of which begin alike; answers of 20 to 339, most of them short; half greedy, half sampled. */
export function questionsOf(count: number, seed: number): Question[] {
  const random = randomNumbers(seed);
  const common = promptOf(48, seed);
  return Array.from({ length: count }, (_, index) => {
    const own = promptOf(1 + random(100), seed + 1 + index);
    return {
      promptTokenIds: random(3) === 0 ? [...common, ...own] : own,
      maxTokens: 20 + random(random(3) === 0 ? 320 : 120),
      temperature: index % 2 === 0 ? 0 : 0.8,
      seed: 1000 + index,
      prefixCache: random(2) === 0,
    };
  });
}

export function scheduleOf(seed: number, requests: number, questions: number): ScheduledRequest[] {
  const random = randomNumbers(seed);
  // All at once, or spread over up to a second.
  const spreadMs = 1 + random(2) * random(1000);
  return Array.from({ length: requests }, () => ({
    which: random(questions),
    delayMs: random(spreadMs),
    cancelAfter: random(5) === 0 ? 1 + random(40) : null,
  }));
}

/** Token ids; with `cancelAfter` at least so many of them, if there are, and then the stream is left. */
export async function ask(
  client: HelsClient,
  { promptTokenIds, ...options }: Question,
  cancelAfter: number | null = null,
): Promise<number[]> {
  const tokenIds: number[] = [];
  const stream = client.generate({ promptTokenIds }, { ...options, ignoreEndOfText: true });
  for await (const event of stream) {
    if (event.type === 'delta') tokenIds.push(...event.tokenIds);
    if (cancelAfter !== null && tokenIds.length >= cancelAfter) break;
  }
  return tokenIds;
}

export interface Outcome {
  different: number;
  cancelled: number;
  failures: string[];
}

/** Plays a schedule and holds each answer, or what came of it, against the known one. */
export async function play(
  client: HelsClient,
  schedule: readonly ScheduledRequest[],
  questions: readonly Question[],
  known: readonly (readonly number[])[],
): Promise<Outcome> {
  const outcome: Outcome = { different: 0, cancelled: 0, failures: [] };
  await Promise.all(
    schedule.map(async ({ which, delayMs, cancelAfter }) => {
      await new Promise((resolve) => setTimeout(resolve, delayMs));
      const question = questions[which] as Question;
      try {
        const answer = await ask(client, question, cancelAfter);
        const whole = cancelAfter === null || answer.length < cancelAfter;
        if (cancelAfter !== null) outcome.cancelled += 1;
        const expected = known[which] ?? [];
        const compared = whole ? expected : expected.slice(0, answer.length);
        if (String(answer) !== String(compared)) outcome.different += 1;
      } catch (error) {
        outcome.failures.push(String(error));
      }
    }),
  );
  return outcome;
}
