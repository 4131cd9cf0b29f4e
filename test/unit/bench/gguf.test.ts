import type { Buffer } from 'node:buffer';
import { describe, expect, it } from 'vitest';
import {
  alignGguf,
  type GgufTensor,
  ggufAlignmentBytes,
  ggufHead,
  ggufOffsets,
  ggufTensorBytes,
} from '../../bench/engine/gguf.ts';

const tensors: GgufTensor[] = [
  { name: 'norm', type: 'f32', shape: [3] },
  { name: 'matrix', type: 'bf16', shape: [5, 7] },
  { name: 'head', type: 'bf16', shape: [16, 2] },
];

/** Reads fields one after another, by the format's description. */
class Reader {
  #offset = 0;
  readonly bytes: Buffer;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  get offset(): number {
    return this.#offset;
  }

  take(length: number): Buffer {
    const part = this.bytes.subarray(this.#offset, this.#offset + length);
    expect(part.length).toBe(length);
    this.#offset += length;
    return part;
  }

  u32 = () => this.take(4).readUInt32LE();
  i32 = () => this.take(4).readInt32LE();
  f32 = () => this.take(4).readFloatLE();
  u64 = () => Number(this.take(8).readBigUInt64LE());
  text = () => String(this.take(this.u64()));
}

describe('GGUF head', () => {
  it('is version 3 with the counts, every kind of value and the tensors, fastest dimension first', () => {
    const reader = new Reader(
      ggufHead(
        {
          name: { type: 'string', value: 'é' },
          count: { type: 'u32', value: 4_000_000_000 },
          epsilon: { type: 'f32', value: 0.5 },
          words: { type: 'strings', value: ['a', ''] },
          scores: { type: 'f32s', value: [1.5, -2] },
          types: { type: 'i32s', value: [-1, 6] },
        },
        tensors,
      ),
    );
    expect(String(reader.take(4))).toBe('GGUF');
    expect([reader.u32(), reader.u64(), reader.u64()]).toEqual([3, 3, 6]);
    expect([reader.text(), reader.u32(), reader.text()]).toEqual(['name', 8, 'é']);
    expect([reader.text(), reader.u32(), reader.u32()]).toEqual(['count', 4, 4_000_000_000]);
    expect([reader.text(), reader.u32(), reader.f32()]).toEqual(['epsilon', 6, 0.5]);
    expect([reader.text(), reader.u32(), reader.u32(), reader.u64()]).toEqual(['words', 9, 8, 2]);
    expect([reader.text(), reader.text()]).toEqual(['a', '']);
    expect([reader.text(), reader.u32(), reader.u32(), reader.u64()]).toEqual(['scores', 9, 6, 2]);
    expect([reader.f32(), reader.f32()]).toEqual([1.5, -2]);
    expect([reader.text(), reader.u32(), reader.u32(), reader.u64()]).toEqual(['types', 9, 5, 2]);
    expect([reader.i32(), reader.i32()]).toEqual([-1, 6]);
    const offsets = ggufOffsets(tensors);
    expect([reader.text(), reader.u32(), reader.u64()]).toEqual(['norm', 1, 3]);
    expect([reader.u32(), reader.u64()]).toEqual([0, offsets[0]]);
    expect([reader.text(), reader.u32(), reader.u64(), reader.u64()]).toEqual(['matrix', 2, 7, 5]);
    expect([reader.u32(), reader.u64()]).toEqual([30, offsets[1]]);
    expect([reader.text(), reader.u32(), reader.u64(), reader.u64()]).toEqual(['head', 2, 2, 16]);
    expect([reader.u32(), reader.u64()]).toEqual([30, offsets[2]]);
    // What is left is padding up to where the data begins.
    expect(reader.bytes.length).toBe(alignGguf(reader.offset));
    expect(reader.bytes.length % ggufAlignmentBytes).toBe(0);
    expect([...reader.bytes.subarray(reader.offset)].every((byte) => byte === 0)).toBe(true);
  });

  it('places each tensor at the next multiple of the alignment', () => {
    expect(tensors.map(ggufTensorBytes)).toEqual([12, 70, 64]);
    expect(ggufOffsets(tensors)).toEqual([0, 32, 128]);
    expect(ggufOffsets([...tensors, { name: 'last', type: 'f32', shape: [1] }]).at(-1)).toBe(192);
  });
});
