/**
 * What the sequences of one epoch take to the next. All state of a request lives in the controller, so a sequence goes on from its
 * tokens; its KV is computed again, or stays when the next epoch's ranks have it. Pure.
 */
import type { Sequence } from './sequence.ts';
import { compareTurns } from './turn-order.ts';

export interface HandOver {
  /** In their order; none has a slot. */
  readonly sequences: readonly Sequence[];
  /** Requests that arrived so far: later ones come after them. */
  readonly arrivals: number;
  /** That the epoch has had; absent: it is another one. */
  readonly steps?: number;
}

/** Where KV is as it was in the epoch before. */
export interface KeptRoom {
  /** In addresses [0, this). */
  readonly blocks: number;
  /** Parked addresses of the epoch before, and where that KV is now. */
  readonly parked: ReadonlyMap<number, number>;
}

export const nothingKept: KeptRoom = { blocks: 0, parked: new Map() };

export interface NextEpoch {
  readonly kvBlockTokens: number;
  readonly kept: KeptRoom;
}

/** An epoch's blocks: parked addresses follow the runnable ones. */
interface EpochBlocks {
  readonly kvBlocks: number;
  readonly kvParkedBlocks: number;
  readonly kvBlockTokens: number;
}

/** What a sequence holds. */
export type HeldKv = Readonly<Pick<Sequence, 'blocks' | 'computed' | 'parked' | 'parkedFrom'>>;

/** KV from the beginning of a sequence on. */
interface LeadingKv {
  /** Of its table, where steps run from. */
  readonly blocks: number;
  /** After these. */
  readonly parked: number;
  readonly positions: number;
}

function leading(addresses: readonly number[], stays: (address: number) => boolean): number {
  const lost = addresses.findIndex((address) => !stays(address));
  return lost === -1 ? addresses.length : lost;
}

/** What stays of it: positions after the first block that does not stay are of no use. */
export function keptOf(held: HeldKv, room: KeptRoom, blockTokens: number): LeadingKv {
  const { blocks, computed, parked, parkedFrom } = held;
  const here = parked.length > 0 ? parkedFrom : Math.ceil(computed / blockTokens);
  const kept = Math.min(
    here,
    leading(blocks, (block) => block < room.blocks),
  );
  const behind = kept === here ? leading(parked, (address) => room.parked.has(address)) : 0;
  const positions = Math.min(computed, (kept + behind) * blockTokens);
  return { blocks: kept, parked: behind, positions };
}

/**
 * What of `held`, of epoch `former`, finds room in `next`, which has the KV below `blocks`: all that is parked behind it while there are
 * parked addresses, those nearest to a sequence's beginning first. KV stays as far behind the runnable addresses as it was if it can.
 */
export function keptRoomFor(
  held: readonly HeldKv[],
  blocks: number,
  former: EpochBlocks,
  next: EpochBlocks,
): KeptRoom {
  const kept: number[] = [];
  for (const one of held) {
    const here = keptOf(one, { ...nothingKept, blocks }, former.kvBlockTokens);
    if (here.blocks < one.parkedFrom) continue;
    kept.push(...one.parked.slice(0, next.kvParkedBlocks - kept.length));
  }
  const moved = (address: number) => address - former.kvBlocks + next.kvBlocks;
  const end = next.kvBlocks + next.kvParkedBlocks;
  const taken = new Set(kept.map(moved).filter((address) => address < end));
  let free = next.kvBlocks;
  const parked = new Map<number, number>();
  for (const address of kept) {
    if (moved(address) < end) parked.set(address, moved(address));
    else {
      while (taken.has(free)) free += 1;
      parked.set(address, free);
      free += 1;
    }
  }
  return { blocks, parked };
}

/** Throws when KV is to stay that no epoch could take over: of steps without an answer, or in blocks of another size. */
export function checkKept(
  { kept, kvBlockTokens }: NextEpoch,
  former: { readonly kvBlockTokens: number },
  stepsUnderWay: number,
): void {
  if (kept.blocks === 0 && kept.parked.size === 0) return;
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
  const kept = keptOf(sequence, next.kept, blockTokens);
  sequence.samplesInFlight = 0;
  sequence.slot = null;
  sequence.lastStep = 0;
  sequence.blocks = sequence.blocks.slice(0, kept.blocks);
  const parked = sequence.parked.slice(0, kept.parked);
  sequence.parked = parked.map((address) => next.kept.parked.get(address) as number);
  sequence.parkedFrom = kept.blocks;
  sequence.remembered = 0;
  sequence.computed = kept.positions;
  if (next.kvBlockTokens !== blockTokens) sequence.contents.length = 0;
}
