import type { GenerationRequest, SamplingParameters } from '../../proto/domain/generation.ts';
import type { KvMove } from '../../proto/domain/kv-residency.ts';
import type { Sequence } from './sequence.ts';

export interface PlannedSequence {
  requestId: string;
  slot: number;
  /** The one input token is the one last sampled for the slot; `tokens` is empty. */
  takeSampled: boolean;
  tokens: number[];
  startPosition: number;
  blockTable: number[];
  /** Leading tokens of the prompt whose KV came from the prefix cache. */
  cachedTokens: number;
  /** null: nothing is sampled (a prompt's chunk that is not its last). */
  sampling: SamplingParameters | null;
  /** None of these is sampled. */
  bannedTokens: number[];
}

/** KV that a step moves to where it can run: back from parked addresses, or, with no other move beside, home from a loan. */
export interface ReturnedKv {
  reloadedTokens: number;
  recalledBlocks: number;
  /** Whose KV these hold. */
  recalledTokens: number;
}

export interface StepPlan extends ReturnedKv {
  step: number;
  /** Done before anything is computed; no address twice. */
  moves: readonly KvMove[];
  /** Empty: the step only moves. */
  sequences: PlannedSequence[];
  /** Tokens of the step that had been computed before and were given up. */
  replayedTokens: number;
}

/** The part of a sequence in a step that computes `count` tokens of it, from its first uncomputed one on. Changes nothing. */
export function plannedSequence(
  sequence: Sequence,
  count: number,
  blockTokens: number,
): PlannedSequence {
  const { computed: startPosition, tokens, blocks, cachedTokens, request } = sequence;
  const takeSampled = sequence.samplesInFlight > 0;
  const end = startPosition + count;
  const samples = end === sequence.length;
  return {
    requestId: request.requestId,
    slot: sequence.slot as number,
    takeSampled,
    tokens: takeSampled ? [] : tokens.slice(startPosition, end),
    startPosition,
    blockTable: blocks.slice(0, Math.ceil(end / blockTokens)),
    cachedTokens,
    sampling: samples ? request.sampling : null,
    bannedTokens: samples ? bannedAt(end, request) : [],
  };
}

/** The position is that of a token which may still be on its way when the step is made: it does not depend on what is back. */
function bannedAt(position: number, { bannedBefore }: GenerationRequest): number[] {
  if (bannedBefore === undefined || position >= bannedBefore.position) return [];
  return [...bannedBefore.tokenIds];
}
