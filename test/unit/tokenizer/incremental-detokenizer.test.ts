import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { IncrementalDetokenizer } from '../../../controller/tokenizer/incremental-detokenizer.ts';
import { propertyRuns } from '../../support/property-runs.ts';

/** Tokens are byte strings; decoded as a byte-level tokenizer does. The first `promptTokens` are a prompt, the others its continuation. */
function stream(tokens: readonly Uint8Array[], promptTokens = 0) {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  let decodedTokens = 0;
  const decode = (ids: number[]) => {
    expect(ids.length).toBeGreaterThan(0);
    decodedTokens += ids.length;
    return decoder.decode(Buffer.concat(ids.map((id) => tokens[id] ?? new Uint8Array())));
  };
  const ids = [...tokens.keys()];
  const bytesOf = (id: number) => tokens[id] ?? new Uint8Array();
  const detokenizer = new IncrementalDetokenizer(decode, bytesOf, ids.slice(0, promptTokens));
  const brokenBefore: number[] = [];
  const pieces = ids.slice(promptTokens).map((id) => {
    const piece = detokenizer.push(id);
    brokenBefore.push(detokenizer.brokenBefore);
    return piece;
  });
  pieces.push(detokenizer.flush());
  return { pieces, brokenBefore, decodedTokens };
}

function cut(text: string, lengths: readonly number[]): Uint8Array[] {
  const bytes = Buffer.from(text, 'utf8');
  const tokens: Uint8Array[] = [];
  for (let begin = 0, i = 0; begin < bytes.length; i += 1) {
    const length = lengths[i % lengths.length] ?? 1;
    tokens.push(bytes.subarray(begin, begin + length));
    begin += length;
  }
  return tokens;
}

const bytesOfHex = (hex: string) => Uint8Array.from(Buffer.from(hex, 'hex'));
const wholeText = (tokens: readonly Uint8Array[]) =>
  new TextDecoder('utf-8', { ignoreBOM: true }).decode(Buffer.concat(tokens));

/** Any bytes; those of U+FFFD, of other characters and of broken ones more often than chance has them. */
const anyToken = (() => {
  const often = fc.constantFrom(0xef, 0xbf, 0xbd, 0x80, 0xe3, 0x81, 0xf0, 0x9f, 0xed, 0x61);
  const byte = fc.oneof(often, fc.integer({ min: 0, max: 0xff }));
  const replacements = ['efbfbd', 'efbfbdefbfbd', 'ef', 'bf', 'bd', 'bfbd', 'bdef'];
  return fc.oneof(
    fc.constantFrom(...replacements.map(bytesOfHex)),
    fc.array(byte, { minLength: 1, maxLength: 4 }).map((values) => Uint8Array.from(values)),
  );
})();

describe('incremental detokenizer', () => {
  it('gives any text back, in whole characters, wherever tokens cut its bytes', () => {
    const characters = fc.constantFrom('a', ' ', 'é', 'あ', '語', '😀', '\u200D', '👨‍👩‍👧');
    const lengths = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 7 });
    fc.assert(
      fc.property(fc.string({ unit: characters, maxLength: 30 }), lengths, (text, cuts) => {
        const { pieces } = stream(cut(text, cuts));
        expect(pieces.join('')).toBe(text);
        for (const piece of pieces) expect(piece).not.toContain('\uFFFD');
      }),
      { numRuns: propertyRuns(1000) },
    );
  });

  it('gives the text of all tokens together, broken characters and U+FFFD that tokens say among them', () => {
    // Each ends in a character, that of the fourth is finished.
    const unfinished = ['61', 'bdef', 'ef', 'bdef', 'bdef', 'bf', 'bfbd'];
    const example = unfinished.map(bytesOfHex);
    fc.assert(
      fc.property(fc.array(anyToken, { minLength: 1, maxLength: 12 }), (tokens) => {
        expect(stream(tokens).pieces.join('')).toBe(wholeText(tokens));
      }),
      { numRuns: propertyRuns(3000), examples: [[example]] },
    );
  });

  it('continues a prompt of any bytes: what the answer does not finish is broken in the prompt', () => {
    const texts = fc.array(anyToken, { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(texts, fc.nat(), (tokens, place) => {
        const promptTokens = place % tokens.length;
        const prompt = tokens.slice(0, promptTokens);
        const options = { stream: true };
        const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
        const settled = decoder.decode(Buffer.concat(prompt), options);
        const continuations = [settled, wholeText(prompt)].map((text) =>
          wholeText(tokens).slice(text.length),
        );
        expect(continuations).toContain(stream(tokens, promptTokens).pieces.join(''));
      }),
      { numRuns: propertyRuns(3000) },
    );
  });

  it('continues a prompt after its last whole character, wherever it was cut', () => {
    const characters = fc.constantFrom('a', ' ', 'é', 'あ', '語', '😀', '\u200D');
    const lengths = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 7 });
    const texts = fc.string({ unit: characters, maxLength: 30 });
    fc.assert(
      fc.property(texts, lengths, fc.nat(), (text, cuts, place) => {
        const tokens = cut(text, cuts);
        const promptTokens = place % (tokens.length + 1);
        const { pieces } = stream(tokens, promptTokens);
        const prompt = Buffer.concat(tokens.slice(0, promptTokens));
        const whole = new TextDecoder('utf-8', { ignoreBOM: true }).decode(prompt, {
          stream: true,
        });
        const rest = promptTokens === tokens.length ? '' : text.slice(whole.length);
        expect(pieces.join('')).toBe(rest);
      }),
      { numRuns: propertyRuns(1000) },
    );
  });

  it('continues a prompt whose tokens cut many characters before its last', () => {
    const tokens = cut('あ語😀😀語😀😀', [4, 1, 2, 1, 1, 2, 2]);
    expect(stream(tokens, 13).pieces.join('')).toBe('😀');
  });

  it('looks at the end of a prompt only, however long it is', () => {
    const tokens = cut('word あ😀 '.repeat(5000), [2]);
    expect(stream(tokens, tokens.length - 1).decodedTokens).toBeLessThan(200);
  });

  it('gives a character out with the token that completes it', () => {
    const { pieces } = stream(cut('xあy', [1, 1, 2, 1]));
    expect(pieces).toEqual(['x', '', 'あ', 'y', '']);
  });

  it('tells from where on a piece is of its own token', () => {
    // é whole, begun and finished, begun and not finished, twice; then what goes on with nothing.
    const hex = ['c3a9', 'c3', 'a9', 'c3', '61', 'c3', 'c3', '62', 'f09f', '98', '63', 'ed', 'a0'];
    const { pieces, brokenBefore } = stream(hex.map(bytesOfHex));
    expect(pieces.map((piece, index) => [piece, brokenBefore[index]])).toEqual([
      ['é', 0],
      ['', 0],
      ['é', 0],
      ['', 0],
      ['\uFFFDa', 1],
      ['', 0],
      ['\uFFFD', 1],
      ['\uFFFDb', 1],
      ['', 0],
      ['', 0],
      ['\uFFFDc', 1],
      ['', 0],
      ['\uFFFD\uFFFD', 1],
      ['', undefined],
    ]);
    // What the prompt began is broken there.
    expect(stream(['c3', '61'].map(bytesOfHex), 1)).toMatchObject({ brokenBefore: [0] });
  });

  it('gives U+FFFD that tokens say at once, and what follows it unbroken', () => {
    const { pieces } = stream(cut('x\uFFFDあ\uFFFD', [1]));
    const held = ['', ''];
    expect(pieces).toEqual(['x', ...held, '\uFFFD', ...held, 'あ', ...held, '\uFFFD', '']);
  });

  it('does not wait for a character that cannot come any more', () => {
    const { pieces } = stream(Array.from({ length: 20 }, () => Uint8Array.of(0x80)));
    expect(pieces.join('')).toBe('\uFFFD'.repeat(20));
    expect(pieces.findIndex((piece) => piece !== '')).toBeLessThan(5);
  });

  it('shows an unfinished character at the end', () => {
    expect(stream(cut('aあ', [1, 2]).slice(0, 2)).pieces.join('')).toBe('a\uFFFD');
  });

  it('decodes a few tokens per token, however long the answer is', () => {
    const tokens = cut('word あ😀 '.repeat(500), [2]);
    expect(stream(tokens).decodedTokens).toBeLessThan(tokens.length * 8);
    const unfinished = Array.from({ length: 500 }, () => Uint8Array.of(0x20, 0xe2, 0x80));
    expect(stream(unfinished).pieces.join('')).toBe(' \uFFFD'.repeat(500));
    expect(stream(unfinished).decodedTokens).toBeLessThan(unfinished.length * 8);
  });
});
