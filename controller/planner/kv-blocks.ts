/** Blocks of every rank's KV pool: what the tightest rank has room for, and no more than all sequences at full length can use. */
export function kvBlocksOf(
  kvTokensTotal: number,
  limits: {
    readonly sequencesMax: number;
    readonly contextTokensMax: number;
    readonly kvBlockTokens: number;
  },
): number {
  const { sequencesMax, contextTokensMax, kvBlockTokens } = limits;
  const usable = sequencesMax * Math.ceil(contextTokensMax / kvBlockTokens);
  return Math.min(Math.floor(kvTokensTotal / kvBlockTokens), usable);
}
