/**
 * What the sequences of one epoch take to the next. All state of a request lives in the controller, so a sequence goes on from its
 * tokens; its KV is computed again, or stays where it is when the next epoch's ranks have it under the same addresses. Pure.
 */
import type { Sequence } from './sequence.ts';
import { compareTurns } from './turn-order.ts';

export interface HandOver {
  /** In their order; none has a slot. */
  readonly sequences: readonly Sequence[];
  /** Requests that arrived so far: later ones come after them. */
  readonly arrivals: number;
}

/** Of the next epoch. */
export interface NextEpoch {
  readonly kvBlockTokens: number;
  /** KV in addresses [0, keptBlocks) is there as it was; 0: none is. */
  readonly keptBlocks: number;
}

/** What a sequence holds. */
export type HeldKv = Readonly<Pick<Sequence, 'blocks' | 'computed' | 'parked' | 'parkedFrom'>>;

/** KV from the beginning of a sequence on. */
interface LeadingKv {
  /** Of its table, where steps run from. */
  readonly blocks: number;
  readonly positions: number;
}

/** What stays of it: positions after the first block that does not stay are of no use. */
export function keptOf(held: HeldKv, keptBlocks: number, blockTokens: number): LeadingKv {
  const { blocks, computed, parked, parkedFrom } = held;
  const here = parked.length > 0 ? parkedFrom : Math.ceil(computed / blockTokens);
  const beyond = blocks.findIndex((block) => block >= keptBlocks);
  const kept = Math.min(here, beyond === -1 ? blocks.length : beyond);
  return { blocks: kept, positions: Math.min(computed, kept * blockTokens) };
}

/** Throws when KV is to stay that no epoch could take over: of steps without an answer, or in blocks of another size. */
export function checkKept(
  { keptBlocks, kvBlockTokens }: NextEpoch,
  former: { readonly kvBlockTokens: number },
  stepsUnderWay: number,
): void {
  if (keptBlocks === 0) return;
  if (stepsUnderWay > 0) throw new Error(`KV cannot stay: ${stepsUnderWay} steps are under way`);
  if (former.kvBlockTokens !== kvBlockTokens) {
    throw new Error(
      `KV cannot stay: blocks have ${former.kvBlockTokens} tokens, the next ${kvBlockTokens}`,
    );
  }
}

/** In their order, each at rest. */
export function bringToRest(
  sequences: readonly Sequence[],
  next: NextEpoch,
  { kvBlockTokens }: { readonly kvBlockTokens: number },
): Sequence[] {
  for (const sequence of sequences) rest(sequence, next, kvBlockTokens);
  return sequences.toSorted(compareTurns);
}

/**
 * The sequence waits for the next epoch. What of its KV does not stay is computed again; tokens that steps without an answer have
 * sampled are sampled again: they depend on the seed and the position alone.
 */
function rest(sequence: Sequence, next: NextEpoch, blockTokens: number): void {
  const kept = keptOf(sequence, next.keptBlocks, blockTokens);
  sequence.samplesInFlight = 0;
  sequence.slot = null;
  sequence.lastStep = 0;
  sequence.blocks = sequence.blocks.slice(0, kept.blocks);
  sequence.parked = [];
  sequence.parkedFrom = kept.blocks;
  sequence.remembered = 0;
  sequence.computed = kept.positions;
  // They are told as found in the cache again when they are.
  if (sequence.generated === 0) {
    sequence.cachedTokens = Math.min(sequence.cachedTokens, sequence.computed);
  }
  if (next.kvBlockTokens !== blockTokens) sequence.contents.length = 0;
}
