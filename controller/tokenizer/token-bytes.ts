/**
 * The bytes a single token stands for, for logprobs. A decoder's text of one token is not enough: half characters become U+FFFD and
 * leading spaces are dropped.
 */
export type TokenAlphabet = 'byte-level' | 'sentence-piece' | 'plain';

/** How the vocabulary writes bytes, read from tokenizer.json's decoder. */
export function tokenAlphabetOf(tokenizerJson: unknown): TokenAlphabet {
  const decoder = JSON.stringify((tokenizerJson as { decoder?: unknown } | null)?.decoder ?? null);
  if (decoder.includes('"ByteLevel"')) return 'byte-level';
  if (decoder.includes('▁') || decoder.includes('"Metaspace"')) return 'sentence-piece';
  return 'plain';
}

/**
 * The table of GPT-2's byte-level BPE: printable Latin-1 characters stand for themselves, the other bytes, in order, for the
 * characters from U+0100 on.
 */
const byteOfCharacter: ReadonlyMap<string, number> = (() => {
  const table = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte += 1) {
    const printable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad && byte <= 0xff);
    table.set(String.fromCharCode(printable ? byte : next), byte);
    if (!printable) next += 1;
  }
  return table;
})();

export function tokenBytes(token: string, alphabet: TokenAlphabet): Uint8Array {
  if (alphabet === 'byte-level') {
    const bytes = Array.from(token, (character) => byteOfCharacter.get(character));
    if (bytes.every((byte) => byte !== undefined)) return Uint8Array.from(bytes);
  }
  if (alphabet === 'sentence-piece') {
    const hex = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
    if (hex !== undefined) return Uint8Array.of(Number.parseInt(hex, 16));
    return Buffer.from(token.replaceAll('▁', ' '), 'utf8');
  }
  return Buffer.from(token, 'utf8');
}

/** Text of a token; one that is no whole text is written as OpenAI does: `bytes:\xe3\x81`. */
export function tokenText(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    const escaped = Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, '0')}`);
    return `bytes:${escaped.join('')}`;
  }
}
