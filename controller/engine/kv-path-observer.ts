/** Holds each step of a group against what its moves, replay and exchanges should take. */
import type { KvResidency } from '../../proto/domain/kv-residency.ts';
import { residencyOf } from '../../proto/domain/kv-residency.ts';
import { type KvPathCosts, kvPathCostsOf } from '../deployment/kv-path-costs.ts';
import { KvPathTracker } from '../deployment/kv-path-tracker.ts';
import { type LentShape, lentBytesOf } from './lent-load.ts';
import type { StepMeasurement } from './step-measurement.ts';

/** The group, as far as its KV paths go. */
interface KvPathGroup {
  readonly costs: KvPathCosts;
  readonly residency: KvResidency;
  /** By rank. */
  readonly headGroups: readonly number[];
  readonly model: LentShape;
}

/** Weight of a step in a rank's mean. */
const meanGain = 1 / 16;

export class KvPathObserver {
  readonly tracker = new KvPathTracker();
  readonly #group: KvPathGroup;
  /** Logarithm of a step's exchanges about loans, by rank: a long stall says little. */
  readonly #meanLogSeconds = new Map<number, number>();

  constructor(group: KvPathGroup) {
    this.#group = group;
  }

  static of(group: Parameters<typeof kvPathCostsOf>[0]): KvPathObserver {
    const { shardPlan, input } = group;
    const headGroups = shardPlan.ranks.map(({ headGroups: range }) =>
      range === null ? 0 : range.end - range.begin,
    );
    const residency = residencyOf(shardPlan);
    return new KvPathObserver({
      costs: kvPathCostsOf(group),
      residency,
      headGroups,
      model: { ...input.model, slidingWindows: shardPlan.model?.slidingWindows ?? [] },
    });
  }

  /**
   * Of the ranks that exchange, the one with the least seconds: not all can tell waiting apart, and it waits least. By the mean, so that it
   * is the same one in step after step.
   */
  #leastWaiting(bytes: readonly number[], seconds: readonly number[]): number {
    const means = this.#meanLogSeconds;
    const busy = [...bytes.keys()].filter((rank) => (bytes[rank] ?? 0) > 0);
    for (const rank of busy) {
      const now = Math.log(Math.max(seconds[rank] ?? 0, Number.MIN_VALUE));
      const before = means.get(rank) ?? now;
      means.set(rank, before + meanGain * (now - before));
    }
    const meanOf = (rank: number) => means.get(rank) ?? 0;
    return busy.reduce((least, rank) => (meanOf(rank) < meanOf(least) ? rank : least));
  }

  step({ moves, load, totalSeconds, plan }: KvPathStep): void {
    const { costs, residency, headGroups, model } = this.#group;
    const { tracker } = this;
    if (plan.recalledBlocks > 0) {
      tracker.observe('recall', costs.recallSeconds(plan.recalledBlocks), moves.seconds);
    } else if (plan.moves.length > 0) {
      tracker.observe('reload', costs.moveSeconds(plan.moves.length), moves.seconds);
    }
    // Of a step with moves nobody knows how much of it was waiting for them.
    if (moves.replayedTokens > 0 && plan.moves.length === 0) {
      const share = moves.replayedTokens / moves.computedTokens;
      const carried = share * costs.stepSeconds(load);
      tracker.observe('replay', { begun: 0, carried }, share * totalSeconds);
    }
    const bytes = lentBytesOf(plan.sequences, residency, headGroups, model);
    if (bytes !== null) {
      const rank = this.#leastWaiting(bytes, moves.rankRemoteSeconds);
      const terms = costs.exchangeSeconds(rank, bytes[rank] ?? 0);
      tracker.observe('remote', terms, moves.rankRemoteSeconds[rank] ?? 0);
    }
  }
}

export type KvPathStep = Pick<StepMeasurement, 'moves' | 'load' | 'totalSeconds' | 'plan'>;
