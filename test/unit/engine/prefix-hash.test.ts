import { describe, expect, it } from 'vitest';
import { sha256PrefixHash } from '../../../controller/engine/prefix-hash.ts';

describe('prefix hash', () => {
  it('is the same for the same block, parent and salt, and another one for any other', () => {
    const blocks: [string | null, string, number[]][] = [
      [null, '', [1, 2]],
      [null, '', [2, 1]],
      [null, '', [1]],
      [null, '', [1, 2 + 2 ** 16]],
      [null, 'tenant', [1, 2]],
      [null, 'tenant\u0000', [1, 2]],
      ['', '', [1, 2]],
      ['key', '', [1, 2]],
      ['key2', '', [1, 2]],
    ];
    const keys = blocks.map((block) => sha256PrefixHash(...block));
    expect(new Set(keys).size).toBe(blocks.length);
    expect(blocks.map((block) => sha256PrefixHash(...block))).toEqual(keys);
    for (const key of keys) expect(key).toMatch(/^[A-Za-z0-9+/]{22}$/);
  });
});
