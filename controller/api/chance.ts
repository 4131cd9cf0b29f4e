import { randomBytes, randomUUID } from 'node:crypto';

/** Chance as an argument: seeds and request ids. */
export interface Chance {
  /** A whole number from 0 to 2^53 - 1. */
  seed(): number;
  /** Unique, at most 64 characters, safe in a header and a log. */
  requestId(): string;
}

export const systemChance: Chance = {
  seed: () => Number(randomBytes(8).readBigUInt64BE() >> 11n),
  requestId: () => randomUUID(),
};
