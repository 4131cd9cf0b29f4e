/** Which prompts get what decodes leave of a step: half for the first in the order, then the shortest first, and what they leave to the first. */
import type { PrefixCache } from './prefix-cache.ts';
import type { Sequence } from './sequence.ts';
import type { StepDraft } from './step-draft.ts';

const priorityOf = ({ request }: Sequence) => request.priority ?? 0;

/** Of one priority, the shorter. */
const shorterFirst = (left: Sequence, right: Sequence) =>
  priorityOf(left) - priorityOf(right) || left.pending - right.pending;

/** `prefilling`: in their order. */
export function takeChunks(
  prefilling: readonly Sequence[],
  prefix: PrefixCache,
  draft: StepDraft,
): void {
  for (const sequence of prefilling) prefix.adopt(sequence);
  const [first, ...others] = prefilling;
  if (first === undefined) return;
  takeChunk(first, prefix, draft, Math.ceil(draft.budget / 2));
  for (const sequence of others.toSorted(shorterFirst)) {
    const key = prefix.nextKey(sequence);
    // Another sequence computes the very block in this step: it can be had for nothing in the next one.
    if (key !== null && draft.fills(key)) continue;
    takeChunk(sequence, prefix, draft, draft.budget);
  }
  takeChunk(first, prefix, draft, draft.budget);
}

function takeChunk(sequence: Sequence, prefix: PrefixCache, draft: StepDraft, most: number): void {
  const taken = draft.countOf(sequence);
  const count = Math.min(sequence.pending - taken, most);
  if (count <= 0) return;
  draft.take(sequence, count, prefix.keysFilledBy(sequence, taken + count));
}
