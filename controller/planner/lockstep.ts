import type { LinkLine } from '../../proto/domain/plan.ts';
import type { Share, StepLine } from './problem.ts';

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
 * Seconds of a step from those of its used ranks. In lockstep the ranks meet after every phase, so each phase, and the link, lasts as long
 * as on its slowest rank; otherwise the step is the slowest rank's own sum (docs/planner.md).
 */
export function groupSeconds(ranks: readonly RankSeconds[], lockstep: boolean): number {
  let [attention, mlp, output, link, whole] = [0, 0, 0, 0, 0];
  for (const rank of ranks) {
    attention = Math.max(attention, rank.attention);
    mlp = Math.max(mlp, rank.mlp);
    output = Math.max(output, rank.output);
    link = Math.max(link, rank.link);
    whole = Math.max(whole, rank.attention + rank.mlp + rank.output + rank.link);
  }
  return lockstep ? attention + mlp + output + link : whole;
}

/** Times that a ring of so many devices moves its payload through each device's link. */
export function ringPasses(participants: number): number {
  return (2 * (participants - 1)) / participants;
}

/** Link seconds of a step of so many tokens; none for a plan of one device. */
export function linkSeconds(link: LinkLine, tokens: number, participants: number): number {
  if (participants < 2) return 0;
  const ring = (link.perTokenRing ?? 0) * ringPasses(participants);
  return link.constant + (link.perToken + ring) * tokens;
}
