import { HelsError } from '../../proto/domain/errors.ts';
import type { PlanInput, PlanOutput } from '../../proto/domain/plan.ts';
import { kvBlocksOf } from '../planner/kv-blocks.ts';
import {
  type SampledResult,
  Scheduler,
  type SchedulerEvent,
  type SchedulerLimits,
  type StepPlan,
} from '../scheduler/scheduler.ts';
import { stepLoadOf } from '../scheduler/step-load.ts';
import { StepPipeline } from '../scheduler/step-pipeline.ts';
import type { Random } from './random.ts';
import { SimulatedRanks } from './simulated-ranks.ts';

/** The KV room comes from the plan. */
export type ServingLimits = Omit<SchedulerLimits, 'kvBlocks'>;

export interface EpochOptions {
  readonly input: PlanInput;
  readonly plan: PlanOutput;
  readonly limits: ServingLimits;
  readonly noise: number;
  readonly controlSeconds: number;
  readonly random: Random;
  /** Positions of each request that have been computed at least once, in this epoch or before it. */
  readonly computed: Map<string, number>;
}

interface Answer {
  readonly atSeconds: number;
  readonly plan: StepPlan;
}

/** Throws plan-infeasible when nothing can run: weights that do not fit a device, or no room for one block of KV. */
function kvBlocksOrRefuse({ input, plan, limits }: EpochOptions): number {
  const tight = plan.ranks.find((rank) => {
    const device = input.devices.find(({ id }) => id === rank.device);
    return device !== undefined && rank.weightBytes > device.memoryBytes - device.reservedBytes;
  });
  const kvBlocks = kvBlocksOf(plan.predicted.kvTokensTotal, limits);
  if (tight === undefined && kvBlocks >= 1) return kvBlocks;
  const what = tight === undefined ? 'there is no room for KV' : `'${tight.device}' is too small`;
  const reason = plan.reason ?? `${what} beside the weights`;
  throw new HelsError('plan-infeasible', `policy ${plan.policy} cannot serve: ${reason}`);
}

/** One plan being served: its scheduler, its ranks, and the steps between them. */
export class SimulatedEpoch {
  readonly scheduler: Scheduler;
  readonly ranks: SimulatedRanks;
  readonly kvBlocks: number;
  readonly #pipeline: StepPipeline;
  readonly #halfWaySeconds: number;
  /** At most the steps in flight, in the order in which they come. */
  #answers: Answer[] = [];
  readonly #computed: Map<string, number>;
  #lost = false;
  steps = 0;
  computedTokens = 0;
  recomputedTokens = 0;
  kvBlocksMax = 0;

  /** Throws plan-infeasible when the plan cannot serve a single token. */
  constructor(options: EpochOptions) {
    this.kvBlocks = kvBlocksOrRefuse(options);
    this.scheduler = new Scheduler({ ...options.limits, kvBlocks: this.kvBlocks });
    this.ranks = new SimulatedRanks(options.input, options.plan, options.noise, options.random);
    this.#pipeline = new StepPipeline(this.scheduler);
    this.#halfWaySeconds = options.controlSeconds / 2;
    this.#computed = options.computed;
  }

  get nextAnswerSeconds(): number {
    return this.#answers[0]?.atSeconds ?? Number.POSITIVE_INFINITY;
  }

  /** A rank is gone: no step comes back any more. */
  lose(): void {
    this.#lost = true;
    this.#answers = [];
  }

  /** Sends the steps that may leave now. */
  send(nowSeconds: number): void {
    if (this.#lost) return;
    for (let plan = this.#pipeline.next(); plan !== null; plan = this.#pipeline.next()) {
      this.#count(plan);
      const doneAt = this.ranks.run(stepLoadOf(plan), nowSeconds + this.#halfWaySeconds);
      this.#answers.push({ atSeconds: doneAt + this.#halfWaySeconds, plan });
    }
    this.kvBlocksMax = Math.max(this.kvBlocksMax, this.scheduler.counts.kvBlocksUsed);
  }

  /** Brings the oldest answer. */
  answer(): SchedulerEvent<SampledResult>[] {
    const { plan } = this.#answers.shift() as Answer;
    const sampled = plan.sequences
      .filter(({ sampling }) => sampling !== null)
      .map(({ slot }) => ({ slot, tokenId: 0 }));
    return this.#pipeline.answer(plan.step, sampled);
  }

  #count(plan: StepPlan): void {
    this.steps += 1;
    for (const { requestId, takeSampled, tokens, startPosition } of plan.sequences) {
      const end = startPosition + (takeSampled ? 1 : tokens.length);
      const before = this.#computed.get(requestId) ?? 0;
      this.computedTokens += end - startPosition;
      this.recomputedTokens += Math.max(0, Math.min(end, before) - startPosition);
      this.#computed.set(requestId, Math.max(end, before));
    }
  }
}
