import type { LatencyLine } from '../../proto/domain/plan.ts';

/** One measured load: `tokens` tokens that attend to `contextTokens` in sum, on these shares of every layer. */
export interface LoadPoint {
  readonly prefill: boolean;
  readonly tokens: number;
  readonly contextTokens: number;
  readonly headGroups: number;
  readonly ffnColumns: number;
  readonly vocabRows: number;
  /** A mixed step: beside the tokens above, which are decode, a prefill chunk of so many tokens that attend to so many in sum. */
  readonly chunkTokens?: number;
  readonly chunkContextTokens?: number;
}

export type Phase = 'decode' | 'prefill' | 'mixed';

export function phaseOf(point: LoadPoint): Phase {
  if ((point.chunkTokens ?? 0) > 0) return 'mixed';
  return point.prefill ? 'prefill' : 'decode';
}

/** Terms of a latency line (design section 6), in the order in which equal ones are kept: the first explains the later ones away. */
export const latencyTerms = [
  'constant',
  'perHeadGroup',
  'perFfnColumn',
  'perVocabRow',
  'perTokenHeadGroup',
  'perTokenFfnColumn',
  'perTokenVocabRow',
  'perContextHeadGroup',
] as const satisfies readonly (keyof LatencyLine)[];

export type LatencyTerm = (typeof latencyTerms)[number];

/** What each term's coefficient is multiplied by at a point, in the order of `latencyTerms`. */
export function termValues(point: LoadPoint): number[] {
  const { tokens, contextTokens, headGroups, ffnColumns, vocabRows } = point;
  return [
    1,
    headGroups,
    ffnColumns,
    vocabRows,
    tokens * headGroups,
    tokens * ffnColumns,
    tokens * vocabRows,
    contextTokens * headGroups,
  ];
}

/** Seconds that lines predict for a point: their maximum. */
export function predictSeconds(lines: readonly LatencyLine[], point: LoadPoint): number {
  const values = termValues(point);
  return lines.reduce((most, line) => {
    const seconds = latencyTerms.reduce(
      (sum, term, index) => sum + (line[term] ?? 0) * (values[index] as number),
      0,
    );
    return Math.max(most, seconds);
  }, 0);
}

/**
 * Seconds of a mixed step (design section 6): the decode lines at all its tokens and the decode tokens' context, and the chunk's
 * context at its own cost, which mixed points give.
 */
export function predictMixedSeconds(
  decode: readonly LatencyLine[],
  perContextHeadGroup: number,
  point: LoadPoint,
): number {
  const { chunkTokens = 0, chunkContextTokens = 0 } = point;
  const tokens = point.tokens + chunkTokens;
  return (
    predictSeconds(decode, { ...point, tokens }) +
    perContextHeadGroup * chunkContextTokens * point.headGroups
  );
}
