import type { Problem, Share } from './problem.ts';

export function isUsed(share: Share): boolean {
  return share.headGroups > 0 || share.ffnColumns > 0 || share.vocabRows > 0;
}

/** Bytes of weights that a used device holds; 0 for an unused one. */
export function weightBytes(problem: Problem, share: Share): number {
  if (!isUsed(share)) return 0;
  const { footprint } = problem;
  return (
    footprint.fixed +
    footprint.perHeadGroup * share.headGroups +
    footprint.perColumn * share.ffnColumns +
    footprint.perRow * share.vocabRows
  );
}
