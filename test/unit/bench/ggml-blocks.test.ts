import { describe, expect, it } from 'vitest';
import {
  blockBytes,
  blockElements,
  type QuantizedType,
  quantizedBlocks,
} from '../../bench/engine/ggml-blocks.ts';

function bf16Of(values: readonly number[]): Buffer {
  const wide = new Uint32Array(Float32Array.from(values).buffer);
  const rows = Buffer.alloc(2 * values.length);
  for (const [index, bits] of wide.entries()) rows.writeUInt16LE(bits >>> 16, 2 * index);
  return rows;
}

function fromHalf(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  const magnitude = exponent === 0 ? fraction * 2 ** -14 : (1 + fraction) * 2 ** (exponent - 15);
  return bits >= 0x8000 ? -magnitude : magnitude;
}

/** By the formats' description: the scale, then bytes, or first the lower halves of 16 bytes, then the upper ones. */
function restored(blocks: Buffer, type: QuantizedType): number[] {
  const result: number[] = [];
  for (let offset = 0; offset < blocks.length; offset += blockBytes[type]) {
    const scale = fromHalf(blocks.readUInt16LE(offset));
    for (let index = 0; index < blockElements; index += 1) {
      const byte = blocks[offset + 2 + (type === 'q8_0' ? index : index % 16)] ?? 0;
      const nibble = index < 16 ? byte & 15 : byte >> 4;
      result.push(scale * (type === 'q8_0' ? (byte << 24) >> 24 : nibble - 8));
    }
  }
  return result;
}

const rows = [1, -1].flatMap((sign) =>
  Array.from({ length: blockElements }, (_, index) => sign * (index - 11) * 2 ** -9),
);

describe('blocks of llama.cpp', () => {
  it.each([
    ['q8_0', 127, 34],
    ['q4_0', 8, 18],
  ] as const)('%s: a block of 32 comes back within half a step', (type, steps, bytes) => {
    const blocks = quantizedBlocks(bf16Of(rows), type);
    expect(blocks.length).toBe(2 * bytes);
    const step = (20 * 2 ** -9) / steps;
    // 4 bits: nothing is above 7 steps where the extreme is at -8.
    const errors = restored(blocks, type).map((value, index) =>
      Math.abs(value - (rows[index] ?? 0)),
    );
    expect(Math.max(...errors)).toBeLessThan(0.51 * step);
  });

  it('keeps the extreme value of a block and zero', () => {
    for (const type of ['q8_0', 'q4_0'] as const) {
      const values = restored(quantizedBlocks(bf16Of(rows), type), type);
      expect([values[31], values[63], values[11]].map((value) => (value ?? 0) * 2 ** 9)).toEqual([
        expect.closeTo(20, 1),
        expect.closeTo(-20, 1),
        expect.closeTo(0, 10),
      ]);
    }
  });

  it('has zeros for a block of zeros', () => {
    const zeros = bf16Of(Array.from({ length: 32 }, () => 0));
    for (const type of ['q8_0', 'q4_0'] as const) {
      expect(restored(quantizedBlocks(zeros, type), type).every((value) => value === 0)).toBe(true);
    }
  });

  it('has small scales as f16 does: subnormal', () => {
    const tiny = bf16Of(Array.from({ length: 32 }, () => 127 * 2 ** -24 * 3));
    expect(quantizedBlocks(tiny, 'q8_0').readUInt16LE(0)).toBe(3);
  });

  it('refuses what are not whole blocks', () => {
    expect(() => quantizedBlocks(Buffer.alloc(62), 'q8_0')).toThrow('31 elements are not whole');
  });
});
