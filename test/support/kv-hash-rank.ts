/**
 * One rank without a model: its KV is real (one cell per position, in the blocks the plan names) and its next token is a hash of the
 * cells it reads. Lost, stale or foreign KV therefore changes the text.
 */
import type { KeptRoom } from '../../controller/scheduler/hand-over.ts';
import type { GenerationRequest } from '../../proto/domain/generation.ts';
import type { KvHomes } from './kv-homes.ts';

export interface HashStep {
  /** Block to block, before anything is computed. */
  moves?: readonly { from: number; to: number }[];
  sequences: readonly {
    slot: number;
    takeSampled: boolean;
    tokens: readonly number[];
    startPosition: number;
    blockTable: readonly number[];
    sampling: unknown;
    bannedTokens: readonly number[];
  }[];
}

export const hashVocabRows = 64;
const unwritten = 0x5bd1e995;

function mix(state: number, value: number): number {
  let hash = Math.imul(state ^ value, 0x9e3779b1);
  hash = Math.imul(hash ^ (hash >>> 15), 0x85ebca6b);
  return (hash ^ (hash >>> 13)) >>> 0;
}

/** A cell depends on all cells before it, as the KV of a deeper layer does. */
const cellOf = (before: number, token: number, position: number) =>
  mix(mix(before, token + 1), position);
function tokenOf(state: number, banned: readonly number[]): number {
  let token = mix(state, 7) % hashVocabRows;
  while (banned.includes(token)) token = (token + 1) % hashVocabRows;
  return token;
}

/** The tokens that an undisturbed run gives; of the first `minTokens` none is a stop token. */
export function hashAnswer(
  prompt: readonly number[],
  maxTokens: number,
  stopTokenIds: readonly number[] = [],
  minTokens = 0,
): number[] {
  const answer: number[] = [];
  let state = 0;
  let position = 0;
  const read = (token: number) => {
    state = mix(state, cellOf(state, token, position));
    position += 1;
  };
  for (const token of prompt) read(token);
  while (answer.length < maxTokens) {
    const token = tokenOf(state, answer.length < minTokens ? stopTokenIds : []);
    answer.push(token);
    if (stopTokenIds.includes(token)) break;
    read(token);
  }
  return answer;
}

export function hashAnswerTo(request: GenerationRequest): number[] {
  const { promptTokenIds, maxTokens, stopTokenIds, bannedBefore } = request;
  const minTokens = bannedBefore && bannedBefore.position - promptTokenIds.length;
  return hashAnswer(promptTokenIds, maxTokens, stopTokenIds, minTokens);
}

/** From the addresses of one epoch to those of the next. */
export function movesOf({ blocks, parked }: KeptRoom): { from: number; to: number }[] {
  const stays = Array.from({ length: blocks }, (_, block) => ({ from: block, to: block }));
  return [...stays, ...Array.from(parked, ([from, to]) => ({ from, to }))];
}

export class KvHashRank {
  readonly #blockTokens: number;
  /** Of a rank without homes: all addresses lie in one memory of its own. */
  readonly #cells = new Map<number, number>();
  readonly #sampled = new Map<number, number>();
  readonly #homes: KvHomes | null;
  readonly #rank: number;

  constructor(blockTokens: number, homes: KvHomes | null = null, rank = 0) {
    this.#blockTokens = blockTokens;
    this.#homes = homes;
    this.#rank = rank;
  }

  /** A rank of the next epoch: it holds the KV of these blocks, under other addresses perhaps, and nothing else of this one. */
  successor(
    blockTokens: number,
    kept: readonly { from: number; to: number }[],
    homes: KvHomes | null = null,
  ): KvHashRank {
    const next = new KvHashRank(blockTokens, homes, this.#rank);
    for (const { from, to } of kept) {
      for (let place = 0; place < this.#blockTokens; place += 1) {
        const cell = this.#read(from * this.#blockTokens + place);
        next.#write(to * this.#blockTokens + place, cell);
      }
    }
    return next;
  }

  hasSampled(slot: number): boolean {
    return this.#sampled.has(slot);
  }

  /** Steps come in the order of their numbers. */
  run(step: HashStep): { slot: number; tokenId: number }[] {
    for (const { from, to } of step.moves ?? []) this.#move(from, to);
    return step.sequences.flatMap((sequence) => {
      const { slot, takeSampled, startPosition, sampling } = sequence;
      const tokens = takeSampled ? [this.#lastSampled(slot)] : sequence.tokens;
      const address = (position: number) => {
        const block = sequence.blockTable[Math.floor(position / this.#blockTokens)];
        if (block === undefined) throw new Error(`position ${position} has no block`);
        return block * this.#blockTokens + (position % this.#blockTokens);
      };
      let state = 0;
      for (let position = 0; position < startPosition; position += 1) {
        state = mix(state, this.#read(address(position)) ?? unwritten);
      }
      tokens.forEach((token, index) => {
        const cell = cellOf(state, token, startPosition + index);
        this.#write(address(startPosition + index), cell);
        state = mix(state, cell);
      });
      if (sampling === null) return [];
      const tokenId = tokenOf(state, sequence.bannedTokens);
      this.#sampled.set(slot, tokenId);
      return [{ slot, tokenId }];
    });
  }

  #move(from: number, to: number): void {
    for (let place = 0; place < this.#blockTokens; place += 1) {
      const cell = this.#read(from * this.#blockTokens + place);
      this.#write(to * this.#blockTokens + place, cell);
    }
  }

  /** KV is of the rank's own heads: to another rank the same cell says something else. */
  #read(place: number): number | undefined {
    const { cells, at } = this.#where(place);
    const stored = cells.get(at);
    return stored === undefined ? undefined : stored ^ this.#rank;
  }

  #write(place: number, cell: number | undefined): void {
    const { cells, at } = this.#where(place);
    if (cell === undefined) cells.delete(at);
    else cells.set(at, cell ^ this.#rank);
  }

  #where(place: number): { cells: Map<number, number>; at: number } {
    if (this.#homes === null) return { cells: this.#cells, at: place };
    const offset = place % this.#blockTokens;
    const home = this.#homes.placeOf(this.#rank, (place - offset) / this.#blockTokens);
    return { cells: home.cells, at: home.block * this.#blockTokens + offset };
  }

  #lastSampled(slot: number): number {
    const token = this.#sampled.get(slot);
    if (token === undefined) throw new Error(`slot ${slot} has sampled nothing`);
    return token;
  }
}
