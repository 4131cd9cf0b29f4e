/**
 * KV on loan costs exchanges in every step that names it. When there is room at home again, steps move it there: all that running sequences
 * have, or none, since a part of it would spare bytes and no exchange.
 */
import type { KvResidence, LentBlock } from './kv-residence.ts';
import { growthOf, type Sequence } from './sequence.ts';
import type { StepDraft } from './step-draft.ts';

/** Steps for which there must be room at home afterwards: not worth the moves otherwise. */
const stepsAtHomeMin = 4;

export interface RecallLimits {
  readonly kvBlockTokens: number;
  /** Blocks that one step may bring home; absent: none. */
  readonly recallsPerStepMax?: number;
}

/**
 * What the running sequences have on loan. null: not all of it can come home, because there is no room, a sequence that does not run holds
 * some, or one is on its way back.
 */
function lentOf(
  running: readonly Sequence[],
  { pool }: KvResidence,
  blockTokens: number,
): LentBlock[] | null {
  const lent = new Map<number, LentBlock>();
  for (const sequence of running) {
    if (sequence.returning) return null;
    for (const [index, block] of sequence.blocks.entries()) {
      if (!pool.isLent(block)) continue;
      const written = sequence.computed - index * blockTokens;
      const tokens = Math.max(0, Math.min(written, blockTokens));
      const known = lent.get(block) ?? { block, holders: [], tokens };
      known.holders.push({ sequence, index });
      lent.set(block, known);
      if (lent.size > pool.localFreeCount) return null;
    }
  }
  // What only sequences hold that compute no more is named by no step.
  const named = [...lent.values()].filter(({ holders }) =>
    holders.some(({ sequence }) => !sequence.complete),
  );
  const isWhole = ({ block, holders }: LentBlock) => pool.referencesOf(block) === holders.length;
  return named.every(isWhole) ? named : null;
}

/** Adds to a step that computes and does not move yet what it can bring home, where all of it has room there and that is cheaper. */
export function recallLent(
  kv: KvResidence,
  running: readonly Sequence[],
  draft: StepDraft,
  { kvBlockTokens, recallsPerStepMax = 0 }: RecallLimits,
): void {
  const { pool, choice } = kv;
  if (!(recallsPerStepMax >= 1) || pool.lentUsedCount === 0 || pool.localFreeCount === 0) return;
  if (draft.sequences.length === 0 || draft.moves.length > 0) return;
  const lent = lentOf(running, kv, kvBlockTokens);
  if (lent === null) return;
  const moving = lent.filter(({ tokens }) => tokens > 0).length;
  const stepsMoving = Math.ceil(moving / recallsPerStepMax);
  const needed = lent.length + growthOf(running, stepsAtHomeMin + stepsMoving, kvBlockTokens);
  const ends = lent.flatMap(({ holders }) => holders.map(({ sequence }) => sequence));
  const stepsLeft = Math.max(0, ...ends.map(({ length, lengthMax }) => lengthMax - length));
  if (needed > pool.localFreeCount || !choice.recalls(moving, stepsLeft)) return;
  for (const block of lent) {
    if (block.tokens === 0 || draft.moves.length < recallsPerStepMax) kv.recall(block, draft);
  }
}
