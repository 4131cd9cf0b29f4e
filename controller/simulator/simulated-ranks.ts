import type { LinkLine, PlanDevice, PlanInput, PlanOutput } from '../../proto/domain/plan.ts';
import type { StepLoad } from '../../proto/domain/step-load.ts';
import { isUsed } from '../planner/evaluate.ts';
import { plannedShares } from '../planner/planned-shares.ts';
import { linkOf, type Share } from '../planner/problem.ts';
import { computeSeconds } from '../planner/step-seconds.ts';
import type { Random } from './random.ts';

export interface RankUse {
  readonly device: string;
  readonly computeSeconds: number;
  readonly linkSeconds: number;
}

interface Rank {
  readonly device: PlanDevice;
  readonly share: Share;
  readonly link: LinkLine;
  computeSeconds: number;
  linkSeconds: number;
}

/**
 * The ranks of a plan as a clock: they run the steps they are sent in order, in lock-step, each step as long as its slowest rank.
 * `noise` is the relative standard deviation of a rank's compute time (log-normal, mean 1).
 */
export class SimulatedRanks {
  readonly #ranks: Rank[];
  readonly #noise: number;
  readonly #random: Random;
  #freeAt = 0;
  #stepSeconds = 0;

  constructor(input: PlanInput, plan: PlanOutput, noise: number, random: Random) {
    this.#noise = noise;
    this.#random = random;
    const linked = plan.ranks.length > 1;
    const shares = plannedShares(input, plan);
    this.#ranks = input.devices.flatMap((device, index): Rank[] => {
      const share = shares[index];
      if (share === undefined || !isUsed(share)) return [];
      const link = linked ? linkOf(device, input) : { constant: 0, perToken: 0 };
      return [{ device, share, link, computeSeconds: 0, linkSeconds: 0 }];
    });
  }

  /** Seconds in which a step ran. */
  get stepSeconds(): number {
    return this.#stepSeconds;
  }

  get use(): RankUse[] {
    return this.#ranks.map(({ device, computeSeconds, linkSeconds }) => ({
      device: device.id,
      computeSeconds,
      linkSeconds,
    }));
  }

  /** When the ranks have finished a step that reaches them at `atSeconds`. */
  run(load: StepLoad, atSeconds: number): number {
    const tokens = load.decodeTokens + load.prefillTokens;
    let slowest = 0;
    for (const rank of this.#ranks) {
      const compute = computeSeconds(rank.device, rank.share, load) * this.#jitter();
      const link = rank.link.constant + rank.link.perToken * tokens;
      rank.computeSeconds += compute;
      rank.linkSeconds += link;
      slowest = Math.max(slowest, compute + link);
    }
    this.#stepSeconds += slowest;
    this.#freeAt = Math.max(atSeconds, this.#freeAt) + slowest;
    return this.#freeAt;
  }

  #jitter(): number {
    if (this.#noise === 0) return 1;
    const variance = Math.log(1 + this.#noise ** 2);
    return Math.exp(Math.sqrt(variance) * this.#random.normal() - variance / 2);
  }
}
