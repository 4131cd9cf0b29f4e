import type { Share, StepLine } from './problem.ts';

/** Seconds of a step by what lies between two meetings of the ranks: attention, MLP, output matrix. */
interface Phases {
  readonly attention: number;
  readonly mlp: number;
  readonly output: number;
}

/**
 * The seconds that the device's lines give for the share, over the phases. A line knows only the sum; where several lines cross, each
 * phase follows its own highest line, scaled so that the sum stays that of the lines. The constant counts as attention.
 */
function phasesOf(lines: readonly StepLine[], share: Share): Phases {
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
 * Seconds of a step in which the ranks meet after every phase: each phase lasts as long as on its slowest rank (docs/planner.md). `linesOf`
 * and `shares` are those of the used devices. At least the slowest device's own seconds.
 */
export function lockstepSeconds(
  linesOf: readonly (readonly StepLine[])[],
  shares: readonly Share[],
): number {
  let attention = 0;
  let mlp = 0;
  let output = 0;
  for (const [index, lines] of linesOf.entries()) {
    const phases = phasesOf(lines, shares[index] as Share);
    attention = Math.max(attention, phases.attention);
    mlp = Math.max(mlp, phases.mlp);
    output = Math.max(output, phases.output);
  }
  return attention + mlp + output;
}
