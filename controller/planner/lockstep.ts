import type { Share } from './problem.ts';
import type { StepLine } from './step-lines.ts';

/** Seconds of a step by what lies between two meetings of the ranks: attention, MLP, output matrix. */
export interface Phases {
  readonly attention: number;
  readonly mlp: number;
  readonly output: number;
}

/** What one rank needs for a step. */
export interface RankSeconds extends Phases {
  readonly link: number;
}

/**
 * The seconds that the device's lines give for the share, over the phases. A line knows only the sum; where several lines cross, each
 * phase follows its own highest line, scaled so that the sum stays that of the lines. The constant counts as attention.
 */
export function phasesOf(lines: readonly StepLine[], share: Share): Phases {
  let seconds = 0;
  let attention = 0;
  let mlp = 0;
  let output = 0;
  for (const line of lines) {
    const heads = line.constant + line.perHeadGroup * share.headGroups;
    const columns = line.perColumn * share.ffnColumns;
    const rows = line.perRow * share.vocabRows;
    seconds = Math.max(seconds, heads + columns + rows);
    attention = Math.max(attention, heads);
    mlp = Math.max(mlp, columns);
    output = Math.max(output, rows);
  }
  const sum = attention + mlp + output;
  const scale = sum > 0 ? seconds / sum : 0;
  return { attention: attention * scale, mlp: mlp * scale, output: output * scale };
}

/**
 * A step of a group from what its used ranks need for it. In lockstep the ranks meet after every phase, so each phase, and the link, lasts as
 * long as on its slowest rank; otherwise the step is the slowest rank's own sum (docs/planner.md).
 */
export class GroupStep {
  #attention = 0;
  #mlp = 0;
  #output = 0;
  #link = 0;
  #slowest = 0;

  add({ attention, mlp, output }: Phases, link: number): void {
    this.#attention = Math.max(this.#attention, attention);
    this.#mlp = Math.max(this.#mlp, mlp);
    this.#output = Math.max(this.#output, output);
    this.#link = Math.max(this.#link, link);
    this.#slowest = Math.max(this.#slowest, attention + mlp + output + link);
  }

  seconds(lockstep: boolean): number {
    return lockstep ? this.#attention + this.#mlp + this.#output + this.#link : this.#slowest;
  }
}

/** The same of ranks given together. */
export function groupSeconds(ranks: Iterable<RankSeconds>, lockstep: boolean): number {
  const step = new GroupStep();
  for (const rank of ranks) step.add(rank, rank.link);
  return step.seconds(lockstep);
}
