import type { PlanInput, PlanOutput } from '../../proto/domain/plan.ts';
import type { StepLoad } from '../../proto/domain/step-load.ts';
import { groupSeconds, type RankSeconds } from '../planner/lockstep.ts';
import { plannedShares } from '../planner/planned-shares.ts';
import type { Share } from '../planner/problem.ts';
import { rankSeconds } from '../planner/step-seconds.ts';
import type { Random } from './random.ts';

export interface RankUse {
  readonly device: string;
  readonly computeSeconds: number;
  readonly linkSeconds: number;
}

/**
 * The ranks of a plan as a clock: they run the steps they are sent in order, each step as long as the planner would predict it by the
 * input's objective. `noise` is the relative standard deviation of a rank's compute time (log-normal, mean 1).
 */
export class SimulatedRanks {
  readonly #input: PlanInput;
  /** The input's devices in use. */
  readonly #shares: readonly Share[];
  readonly #use: { device: string; computeSeconds: number; linkSeconds: number }[];
  readonly #noise: number;
  readonly #random: Random;
  #freeAt = 0;
  #stepSeconds = 0;

  constructor(input: PlanInput, plan: PlanOutput, noise: number, random: Random) {
    this.#noise = noise;
    this.#random = random;
    const used = new Set(plan.ranks.map(({ device }) => device));
    this.#input = { ...input, devices: input.devices.filter(({ id }) => used.has(id)) };
    this.#shares = plannedShares(this.#input, plan);
    this.#use = this.#input.devices.map(({ id }) => ({
      device: id,
      computeSeconds: 0,
      linkSeconds: 0,
    }));
  }

  /** Seconds in which a step ran. */
  get stepSeconds(): number {
    return this.#stepSeconds;
  }

  get use(): RankUse[] {
    return this.#use.map((use) => ({ ...use }));
  }

  /** When the ranks have finished a step that reaches them at `atSeconds`. */
  run(load: StepLoad, atSeconds: number): number {
    const ranks: RankSeconds[] = [];
    for (const [index, rank] of rankSeconds(this.#input, this.#shares, load).entries()) {
      const use = this.#use[index];
      if (rank === null || use === undefined) continue;
      const noise = this.#jitter();
      const [attention, mlp, output] = [
        rank.attention * noise,
        rank.mlp * noise,
        rank.output * noise,
      ];
      ranks.push({ attention, mlp, output, link: rank.link });
      use.computeSeconds += attention + mlp + output;
      use.linkSeconds += rank.link;
    }
    const seconds = groupSeconds(ranks, this.#input.objective === 'lockstep');
    this.#stepSeconds += seconds;
    this.#freeAt = Math.max(atSeconds, this.#freeAt) + seconds;
    return this.#freeAt;
  }

  #jitter(): number {
    if (this.#noise === 0) return 1;
    const variance = Math.log(1 + this.#noise ** 2);
    return Math.exp(Math.sqrt(variance) * this.#random.normal() - variance / 2);
  }
}
