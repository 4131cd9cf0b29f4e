/** Random schedules of requests: who comes when, how long it is, who goes away half way. Repeatable by their seed. */

import { promptOf } from '../../../client/helsctl/request-load.ts';
import type { HelsClient } from '../../../client/sdk/index.ts';
import { HelsError } from '../../../proto/domain/errors.ts';

export interface ScheduledRequest {
  /** Its number among those whose answers are known. */
  which: number;
  delayMs: number;
  /** Tokens after which the client goes away; null: it stays. */
  cancelAfter: number | null;
  priority: number;
}

/** Another split by hand, while requests run. */
export interface ScheduledReplan {
  delayMs: number;
  headGroups: readonly number[];
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
    priority: random(4) === 0 ? random(5) - 2 : 0,
  }));
}

/** To the other split and back, within the first second and a half. */
export function replansOf(seed: number, splits: readonly (readonly number[])[]): ScheduledReplan[] {
  const [first, other] = splits;
  if (first === undefined || other === undefined) return [];
  const random = randomNumbers(seed);
  return [other, first].map((headGroups) => ({ delayMs: 100 + random(700), headGroups }));
}

export const ranksOf = (headGroups: readonly number[]) =>
  headGroups.map((count, index) => ({
    workerId: `worker-${index}`,
    headGroups: count,
    ffnWeight: 1,
  }));

const undisturbed = { cancelAfter: null, priority: 0 };

/** Token ids; with `cancelAfter` at least so many of them, if there are, and then the stream is left. */
export async function ask(
  client: HelsClient,
  { promptTokenIds, ...options }: Question,
  { cancelAfter, priority }: Pick<ScheduledRequest, 'cancelAfter' | 'priority'> = undisturbed,
): Promise<number[]> {
  const tokenIds: number[] = [];
  const stream = client.generate(
    { promptTokenIds },
    { ...options, priority, ignoreEndOfText: true },
  );
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
  /** Plans that were applied, of these with the KV moved or left where it was, and such as were refused for what runs. */
  replans: number;
  migrations: number;
  refusedReplans: number;
}

async function replan(
  client: HelsClient,
  { delayMs, headGroups }: ScheduledReplan,
  outcome: Outcome,
): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, delayMs));
  try {
    for await (const event of client.replan({ ranks: ranksOf(headGroups) })) {
      if (event.type !== 'done' || event.replan === null) continue;
      outcome.replans += 1;
      if (event.replan.kv === 'migrated') outcome.migrations += 1;
    }
  } catch (error) {
    if (!(error instanceof HelsError) || error.code !== 'plan-infeasible') throw error;
    outcome.refusedReplans += 1;
  }
}

/** Plays a schedule and holds each answer, or what came of it, against the known one. */
export async function play(
  client: HelsClient,
  schedule: readonly ScheduledRequest[],
  questions: readonly Question[],
  known: readonly (readonly number[])[],
  replans: readonly ScheduledReplan[],
): Promise<Outcome> {
  const outcome: Outcome = {
    ...{ different: 0, cancelled: 0, failures: [] },
    ...{ replans: 0, migrations: 0, refusedReplans: 0 },
  };
  const replanned = (async () => {
    for (const one of replans) await replan(client, one, outcome);
  })();
  await Promise.all([
    replanned,
    ...schedule.map(async ({ which, delayMs, cancelAfter, priority }) => {
      await new Promise((resolve) => setTimeout(resolve, delayMs));
      const question = questions[which] as Question;
      try {
        const answer = await ask(client, question, { cancelAfter, priority });
        const whole = cancelAfter === null || answer.length < cancelAfter;
        if (cancelAfter !== null) outcome.cancelled += 1;
        const expected = known[which] ?? [];
        const compared = whole ? expected : expected.slice(0, answer.length);
        if (String(answer) !== String(compared)) outcome.different += 1;
      } catch (error) {
        outcome.failures.push(String(error));
      }
    }),
  ]);
  return outcome;
}
