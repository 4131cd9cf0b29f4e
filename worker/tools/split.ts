/** `--ranks h/w,h/w,...` -> the shard of each rank. Pure. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { Range, ShardSpec } from '../binding/engine-types.ts';

export interface RankShare {
  headGroups: number;
  /** Relative; 0 is legal. */
  ffnWeight: number;
}

const ranksMax = 64;

/** Throws usage naming the part that is wrong. */
export function parseRanks(text: string): RankShare[] {
  const parts = text.split(',');
  if (parts.length > ranksMax) {
    throw usage(
      `--ranks has ${parts.length} entries; at most ${ranksMax} ranks run in one process`,
    );
  }
  return parts.map((part) => {
    const match = /^(\d+)\/(\d+(?:\.\d+)?)$/.exec(part.trim());
    if (match === null) {
      throw usage(
        `--ranks: '${part}' is not h/w, head groups and relative FFN weight of a rank, for example 2/1.5`,
      );
    }
    return { headGroups: Number(match[1]), ffnWeight: Number(match[2]) };
  });
}

/**
 * Head groups as given; FFN columns by weight, in whole granules, largest remainder first; vocabulary rows by weight, in single rows.
 * Throws usage when the head groups do not add up to the model's or every weight is 0.
 */
export function splitModel(model: ModelSpec, shares: readonly RankShare[]): ShardSpec[] {
  const heads = shares.map((share) => share.headGroups);
  const total = heads.reduce((sum, count) => sum + count, 0);
  if (total !== model.headGroups) {
    throw usage(
      `--ranks has ${total} head groups in all (${heads.join(' + ')}); the model has ${model.headGroups}`,
    );
  }
  const weights = shares.map((share) => share.ffnWeight);
  if (weights.every((weight) => weight === 0)) {
    throw usage('--ranks gives every rank the FFN weight 0; some rank must hold the FFN columns');
  }
  const granules = apportion(Math.ceil(model.ffnColumns / model.ffnGranule), weights);
  const headRanges = toRanges(heads);
  const ffnRanges = toRanges(granules).map(({ begin, end }) => ({
    begin: Math.min(begin * model.ffnGranule, model.ffnColumns),
    end: Math.min(end * model.ffnGranule, model.ffnColumns),
  }));
  const vocabRanges = toRanges(apportion(model.vocabRows, weights));
  const none: Range = { begin: 0, end: 0 };
  return shares.map((_, rank) => ({
    rank,
    ranks: shares.length,
    headGroups: headRanges[rank] ?? none,
    ffnColumns: ffnRanges[rank] ?? none,
    vocabRows: vocabRanges[rank] ?? none,
  }));
}

/** `units` shared out by weight: whole parts first, then one each by largest remainder (lower index first on a tie). */
export function apportion(units: number, weights: readonly number[]): number[] {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const exact = weights.map((weight) => (units * weight) / total);
  const counts = exact.map(Math.floor);
  const missing = units - counts.reduce((sum, count) => sum + count, 0);
  const order = exact
    .map((share, index) => ({ index, remainder: share - Math.floor(share) }))
    .sort((left, right) => right.remainder - left.remainder || left.index - right.index);
  for (const { index } of order.slice(0, missing)) counts[index] = (counts[index] ?? 0) + 1;
  return counts;
}

function toRanges(counts: readonly number[]): Range[] {
  let end = 0;
  return counts.map((count) => {
    const begin = end;
    end += count;
    return { begin, end };
  });
}

function usage(message: string): HelsError {
  return new HelsError('usage', message, { field: '--ranks' });
}
