import { createHash } from 'node:crypto';
import type { PrefixHash } from '../scheduler/prefix-table.ts';

/** 128 bits of SHA-256, base64. The salt counts once, in the first block: every later key depends on it through its parent. */
export const sha256PrefixHash: PrefixHash = (parent, salt, tokenIds) =>
  createHash('sha256')
    .update(JSON.stringify(parent === null ? { salt } : { parent }))
    .update(Int32Array.from(tokenIds))
    .digest('base64')
    .slice(0, 22);
