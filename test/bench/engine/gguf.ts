/** The head of a GGUF file, version 3, little-endian: metadata and the table of tensors, padded to where the data begins. Pure. */

import { blockBytes, blockElements, type QuantizedType } from './ggml-blocks.ts';

export type GgufValue =
  | { type: 'u32' | 'f32'; value: number }
  | { type: 'string'; value: string }
  | { type: 'i32s' | 'f32s'; value: readonly number[] }
  | { type: 'strings'; value: readonly string[] };

export interface GgufTensor {
  name: string;
  type: 'f32' | 'bf16' | QuantizedType;
  /** Slowest first, as in safetensors: (rows, columns). */
  shape: readonly number[];
}

export const ggufAlignmentBytes = 32;

const version = 3;
const valueTypes = { u32: 4, i32: 5, f32: 6, string: 8 } as const;
const arrayType = 9;
const tensorTypes = { f32: 0, q4_0: 2, q8_0: 8, bf16: 30 } as const;
const elementBytes = {
  f32: 4,
  bf16: 2,
  q8_0: blockBytes.q8_0 / blockElements,
  q4_0: blockBytes.q4_0 / blockElements,
} as const;

export function ggufTensorBytes({ type, shape }: GgufTensor): number {
  return shape.reduce((product, size) => product * size, elementBytes[type]);
}

export function alignGguf(offset: number): number {
  return Math.ceil(offset / ggufAlignmentBytes) * ggufAlignmentBytes;
}

/** Offset of each tensor from where the data begins; each is aligned, and so is the end of the last. */
export function ggufOffsets(tensors: readonly GgufTensor[]): number[] {
  let offset = 0;
  return tensors.map((tensor) => {
    const begin = offset;
    offset = alignGguf(begin + ggufTensorBytes(tensor));
    return begin;
  });
}

export function ggufHead(
  metadata: Readonly<Record<string, GgufValue>>,
  tensors: readonly GgufTensor[],
): Buffer {
  const entries = Object.entries(metadata);
  const offsets = ggufOffsets(tensors);
  const head = Buffer.concat([
    Buffer.from('GGUF'),
    u32(version),
    u64(tensors.length),
    u64(entries.length),
    ...entries.flatMap(([key, value]) => [text(key), ...encoded(value)]),
    ...tensors.flatMap(({ name, type, shape }, index) => [
      text(name),
      u32(shape.length),
      // GGUF names the fastest dimension first.
      ...shape.toReversed().map(u64),
      u32(tensorTypes[type]),
      u64(offsets[index] ?? 0),
    ]),
  ]);
  return Buffer.concat([head, Buffer.alloc(alignGguf(head.length) - head.length)]);
}

function encoded(value: GgufValue): Buffer[] {
  switch (value.type) {
    case 'u32':
    case 'f32':
      return [u32(valueTypes[value.type]), scalar(value.type, value.value)];
    case 'string':
      return [u32(valueTypes.string), text(value.value)];
    case 'strings':
      return [...arrayHead(valueTypes.string, value.value.length), ...value.value.map(text)];
    default: {
      const element = value.type === 'i32s' ? 'i32' : 'f32';
      const items = value.value.map((item) => scalar(element, item));
      return [...arrayHead(valueTypes[element], items.length), ...items];
    }
  }
}

function arrayHead(elementType: number, count: number): Buffer[] {
  return [u32(arrayType), u32(elementType), u64(count)];
}

function scalar(type: 'u32' | 'i32' | 'f32', value: number): Buffer {
  if (type === 'u32') return u32(value);
  const bytes = Buffer.alloc(4);
  if (type === 'i32') bytes.writeInt32LE(value);
  else bytes.writeFloatLE(value);
  return bytes;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(bytes.length), bytes]);
}
