interface KvLimits {
  readonly sequencesMax: number;
  readonly contextTokensMax: number;
  readonly kvBlockTokens: number;
}

/** More blocks than all sequences at full length can use are of no use. */
export function usableBlocks({ sequencesMax, contextTokensMax, kvBlockTokens }: KvLimits): number {
  return sequencesMax * Math.ceil(contextTokensMax / kvBlockTokens);
}

/** Blocks of every rank's KV pool: what the tightest rank has room for, and no more than are usable. */
export function kvBlocksOf(kvTokensTotal: number, limits: KvLimits): number {
  return Math.min(Math.floor(kvTokensTotal / limits.kvBlockTokens), usableBlocks(limits));
}
