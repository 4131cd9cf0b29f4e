/** The scheduler step by step, by hand: what it planned as short texts, tokens that count up as answers. */
import { type KeptRoom, keptRoomFor, nothingKept } from '../../controller/scheduler/hand-over.ts';
import type { PrefixHash } from '../../controller/scheduler/prefix-table.ts';
import {
  Scheduler,
  type SchedulerEvent,
  type SchedulerLimits,
  type StepPlan,
} from '../../controller/scheduler/scheduler.ts';
import type { GenerationRequest } from '../../proto/domain/generation.ts';
import { requestOf } from './generation-requests.ts';

export const limitsOf = (limits: Partial<SchedulerLimits> = {}): SchedulerLimits => ({
  kvBlocks: 16,
  kvBlockTokens: 4,
  stepTokensMax: 8,
  sequencesMax: 4,
  contextTokensMax: 64,
  waitingMax: 8,
  ...limits,
});

/** Tokens of a plan's sequence. */
const countOf = (sequence: StepPlan['sequences'][number]) =>
  sequence.takeSampled ? 1 : sequence.tokens.length;

/** `from>to` of each move, then `id:count`, an asterisk where a token is sampled. */
export const show = (plan: StepPlan | null) =>
  plan === null
    ? 'nothing'
    : [
        ...plan.moves.map(({ from, to }) => `${from}>${to}`),
        ...plan.sequences.map(
          (s) => `${s.requestId}:${countOf(s)}${s.sampling === null ? '' : '*'}`,
        ),
      ].join(' ');

const blocksOf = ({ kvBlocks, kvBlockTokens, parking }: SchedulerLimits) => ({
  kvBlocks,
  kvBlockTokens,
  kvParkedBlocks: parking?.blocks ?? 0,
});

/** What the epoch with limits `next` takes over when it has the KV below `keptBlocks`; 0: it has nothing. */
export function keptBetween(
  scheduler: Scheduler,
  keptBlocks: number,
  former: SchedulerLimits,
  next: SchedulerLimits,
): KeptRoom {
  if (keptBlocks === 0) return nothingKept;
  return keptRoomFor(scheduler.requests, keptBlocks, blocksOf(former), blocksOf(next));
}

type Event = SchedulerEvent<{ slot: number; tokenId: number }>;

export class Driver {
  scheduler: Scheduler;
  readonly plans: StepPlan[] = [];
  readonly #prefixHash: PrefixHash | null;
  #limits: SchedulerLimits;
  #nextToken = 100;

  constructor(limits: Partial<SchedulerLimits> = {}, prefixHash: PrefixHash | null = null) {
    this.#prefixHash = prefixHash;
    this.#limits = limitsOf(limits);
    this.scheduler = new Scheduler(this.#limits, prefixHash);
  }

  /** Another epoch, between steps; KV below `keptBlocks` stays, and what is parked behind it. */
  rebase(limits: Partial<SchedulerLimits>, keptBlocks: number): this {
    const next = limitsOf(limits);
    const kept = keptBetween(this.scheduler, keptBlocks, this.#limits, next);
    this.#limits = next;
    const handedOver = this.scheduler.handOver({ ...next, kept });
    this.scheduler = new Scheduler(next, this.#prefixHash, handedOver);
    this.scheduler.checkIntegrity();
    return this;
  }

  add(id: string, prompt: number, maxTokens: number, stop: number[] = [], minTokens = 0): this {
    this.scheduler.add(requestOf(id, prompt, maxTokens, stop, minTokens));
    return this;
  }

  /** A prompt of given tokens. `salt` null: without the prefix cache. */
  ask(id: string, prompt: readonly number[], maxTokens: number, salt: string | null = ''): this {
    const prefixCache: GenerationRequest['prefixCache'] = salt === null ? null : { salt };
    this.scheduler.add({ ...requestOf(id, prompt, maxTokens), prefixCache });
    return this;
  }

  plan(): StepPlan | null {
    const plan = this.scheduler.schedule();
    if (plan !== null) this.plans.push(plan);
    this.scheduler.checkIntegrity();
    return plan;
  }

  /** The oldest step under way; its tokens are 100, 101, ... unless given. */
  answer(tokens: number[] = []): Event[] {
    const plan = this.plans.shift();
    if (plan === undefined) throw new Error('no step is under way');
    const sampled = plan.sequences
      .filter(({ sampling }) => sampling !== null)
      .map(({ slot }) => ({ slot, tokenId: tokens.shift() ?? this.#nextToken++ }));
    const events = this.scheduler.apply(plan.step, sampled);
    this.scheduler.checkIntegrity();
    return events;
  }

  /** One step, planned and answered. */
  step(): string {
    const shown = show(this.plan());
    if (shown !== 'nothing') this.answer();
    return shown;
  }
}
