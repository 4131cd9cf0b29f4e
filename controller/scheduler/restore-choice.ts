/** What is done with KV that has to make room, kept elsewhere and moved back or given up and computed again, and with KV on loan. */
export interface RestoreChoice {
  /** Whether the KV of `tokens` positions from `start` on is worth keeping. Asking changes nothing. */
  pays(tokens: number, start: number): boolean;
  /** Whether it is to be kept, now that its room is needed. */
  parks(tokens: number, start: number): boolean;
  /** Whether blocks on loan are worth bringing home, when no other is then in the steps to come, of which there are at most so many. */
  recalls(blocks: number, steps: number): boolean;
}

/** Seconds, on the slowest rank; fitted or measured, never guessed (controller/deployment/restore-costs.ts). */
export interface RestoreCosts {
  /** One block to its parked address, or back. */
  readonly moveSecondsPerBlock: number;
  /** One block on loan, home. */
  readonly recallSecondsPerBlock: number;
  /** Beginning the exchanges about loans in a step, as probed: what they hold up, waiting for each other included. */
  readonly exchangeSecondsPerStep: number;
  /** What they carry about one block for a row that decodes. */
  readonly exchangeSecondsPerBlock: number;
  /** One more token in a step with a chunk of a prompt. */
  readonly replaySecondsPerToken: number;
  /** The same for each position that the token attends to. */
  readonly replaySecondsPerContextToken: number;
}

export const movesAlways: RestoreChoice = {
  pays: () => true,
  parks: () => true,
  recalls: () => true,
};

/** One in so many blocks is kept although it costs more: a path that is never taken would never be found to have become cheaper. */
const probeEvery = 32;

/**
 * Keeps a block when moving it away and back is shorter than computing its tokens again. `ratioOf` says how much longer than by the costs
 * a path takes in service; absent: as long.
 */
export function cheapestRestore(
  costs: RestoreCosts,
  ratioOf: (path: 'reload' | 'replay') => number = () => 1,
): RestoreChoice {
  let refused = 0;
  const { moveSecondsPerBlock, replaySecondsPerToken, replaySecondsPerContextToken } = costs;
  const pays = (tokens: number, start: number) => {
    const context = tokens * start + (tokens * (tokens + 1)) / 2;
    const replay = replaySecondsPerToken * tokens + replaySecondsPerContextToken * context;
    return 2 * moveSecondsPerBlock * ratioOf('reload') <= replay * ratioOf('replay');
  };
  return {
    pays,
    recalls(blocks, steps) {
      // Both as probed, waiting for each other included: what is measured in service is without it.
      const exchange = costs.exchangeSecondsPerStep + blocks * costs.exchangeSecondsPerBlock;
      return blocks * costs.recallSecondsPerBlock <= steps * exchange;
    },
    parks(tokens, start) {
      if (pays(tokens, start)) return true;
      refused += 1;
      return refused % probeEvery === 0;
    },
  };
}
