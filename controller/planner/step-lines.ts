import type { LatencyLine, LinkLine, PlanDevice, PlanInput } from '../../proto/domain/plan.ts';

/** One latency line at a fixed load (T, A): seconds = constant + perHeadGroup*h + perColumn*f + perRow*v. */
export interface StepLine {
  readonly constant: number;
  readonly perHeadGroup: number;
  readonly perColumn: number;
  readonly perRow: number;
}

const noLink: LinkLine = { constant: 0, perToken: 0 };

/** The line with T and A filled in (design section 6). */
function lineAt(line: LatencyLine, tokens: number, contextTokens: number): StepLine {
  return {
    constant: line.constant ?? 0,
    perHeadGroup:
      (line.perHeadGroup ?? 0) +
      (line.perTokenHeadGroup ?? 0) * tokens +
      (line.perContextHeadGroup ?? 0) * contextTokens,
    perColumn: (line.perFfnColumn ?? 0) + (line.perTokenFfnColumn ?? 0) * tokens,
    perRow: (line.perVocabRow ?? 0) + (line.perTokenVocabRow ?? 0) * tokens,
  };
}

export function linesAt(
  lines: LatencyLine | LatencyLine[],
  tokens: number,
  contextTokens: number,
): StepLine[] {
  return [lines].flat().map((line) => lineAt(line, tokens, contextTokens));
}

/** Link of a device: its own, else the input's, else none. */
export function linkOf(device: PlanDevice, input: Pick<PlanInput, 'link'>): LinkLine {
  return device.link ?? input.link ?? noLink;
}
