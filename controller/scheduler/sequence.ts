import type { GenerationRequest } from '../../proto/domain/generation.ts';
import type { BlockContent } from './prefix-table.ts';

/**
 * One token stream.
 *
 *   known tokens          [0 ............ prompt ............ known)
 *   sampled, not returned                                     [known, length)     at most two: the controller is one step ahead
 *   KV submitted          [0 ......... computed)
 *   still to compute                   [computed, length)     one: decode; more: prefill
 *
 * Its KV, by block of the table:
 *
 *   runs                  blocks: all of [0, computed) and room for the next positions
 *   waits, gave way       blocks: [0, parkedFrom)     parked: [parkedFrom, + parked.length), which is where computed ends
 *   comes back            blocks: all, of which those of [parkedFrom, + parked.length) are still to be moved from their parked addresses
 */
export class Sequence {
  readonly request: GenerationRequest;
  /** A preempted sequence keeps its number. */
  readonly arrival: number;
  readonly tokens: number[];
  computed = 0;
  /** Tokens sampled by submitted steps whose results are not back. */
  samplesInFlight = 0;
  /** null while waiting. */
  slot: number | null = null;
  blocks: number[] = [];
  /** Parked addresses of the blocks from `parkedFrom` on. */
  parked: number[] = [];
  parkedFrom = 0;
  /** It ran before and was preempted. */
  gaveWay = false;
  /** It gave way and has computed nothing since. */
  away = false;
  /** Positions whose KV it had at least once: computed, or found in the prefix cache. */
  computedMost = 0;
  /** What its full blocks hold, as far as the prefix cache asked. */
  readonly contents: BlockContent[] = [];
  /** So many of its blocks are known to the prefix cache. */
  remembered = 0;
  /** Tokens of the prompt whose KV came from the prefix cache when it first had any. */
  cachedTokens = 0;
  /** The prefix cache has counted its prompt. */
  promptCounted = false;
  /** The newest step that names this sequence; 0 = none. */
  lastStep = 0;
  ended = false;

  constructor(request: GenerationRequest, arrival: number) {
    this.request = request;
    this.arrival = arrival;
    this.tokens = [...request.promptTokenIds];
  }

  /** Positions including those whose tokens are still on their way. */
  get length(): number {
    return this.tokens.length + this.samplesInFlight;
  }

  /** The longest it can become. */
  get lengthMax(): number {
    return this.request.promptTokenIds.length + this.request.maxTokens;
  }

  /** A part of its KV is on its way back: it cannot compute yet. */
  get returning(): boolean {
    return this.slot !== null && this.parked.length > 0;
  }

  get pending(): number {
    return this.length - this.computed;
  }

  get generated(): number {
    return this.length - this.request.promptTokenIds.length;
  }

  /** All its tokens are sampled or on their way: nothing more to submit. */
  get complete(): boolean {
    return this.generated >= this.request.maxTokens;
  }
}

/** Blocks that the sequences will ask for in the next `steps`. */
export function growthOf(
  sequences: readonly Sequence[],
  steps: number,
  blockTokens: number,
): number {
  const blocksFor = (positions: number) => Math.ceil(positions / blockTokens);
  return sequences.reduce((sum, { length, lengthMax, blocks }) => {
    const soon = blocksFor(Math.min(length + steps, lengthMax));
    return sum + Math.max(0, soon - Math.max(blocks.length, blocksFor(length)));
  }, 0);
}
