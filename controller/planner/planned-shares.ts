import type { HalfOpenRange, PlanInput, PlannedRank, PlanOutput } from '../../proto/domain/plan.ts';
import { evaluateShares, isUsed, linesSeconds } from './evaluate.ts';
import { compileProblem, linesAt, type Share } from './problem.ts';

const lengthOf = ([begin, end]: HalfOpenRange): number => end - begin;

type PlannedRanges = Pick<PlannedRank, 'device' | 'headGroups' | 'ffnColumns' | 'vocabRows'>;

/** Predicted decode seconds of ranks at another load or on other lines than they were planned for. */
export function plannedDecodeSeconds(input: PlanInput, ranks: readonly PlannedRanges[]): number {
  return evaluateShares(compileProblem(input), plannedShares(input, { ranks })).decodeSeconds;
}

/** What a plan gives to each device of its input, in their order; nothing to those that it leaves out. */
export function plannedShares(
  input: PlanInput,
  plan: { readonly ranks: readonly PlannedRanges[] },
): Share[] {
  const ranks = new Map(plan.ranks.map((rank) => [rank.device, rank]));
  return input.devices.map(({ id }) => {
    const rank = ranks.get(id);
    if (rank === undefined) return { headGroups: 0, ffnColumns: 0, vocabRows: 0 };
    return {
      headGroups: lengthOf(rank.headGroups),
      ffnColumns: lengthOf(rank.ffnColumns),
      vocabRows: lengthOf(rank.vocabRows),
    };
  });
}

/**
 * Seconds from the arrival of a prompt at an idle group to its first token: the prefill steps of its chunks, each at the context that it
 * attends to (token i of the prompt attends to i tokens). Queueing, tokenization and the controller are not in it.
 */
export function timeToFirstTokenSeconds(
  input: PlanInput,
  plan: Pick<PlanOutput, 'ranks'>,
  promptTokens: number,
): number {
  const shares = plannedShares(input, plan);
  const linked = shares.filter(isUsed).length > 1;
  const { prefillChunk } = input.workload;
  let seconds = 0;
  for (let start = 0; start < promptTokens; start += prefillChunk) {
    const tokens = Math.min(prefillChunk, promptTokens - start);
    const contextTokens = tokens * start + (tokens * (tokens + 1)) / 2;
    let step = 0;
    for (const [index, device] of input.devices.entries()) {
      const share = shares[index];
      if (share === undefined || !isUsed(share)) continue;
      const link = device.link ?? input.link;
      const linkSeconds = linked && link !== undefined ? link.constant + link.perToken * tokens : 0;
      const lines = linesAt(device.prefill, tokens, contextTokens);
      step = Math.max(step, linesSeconds(lines, share) + linkSeconds);
    }
    seconds += step;
  }
  return seconds;
}
