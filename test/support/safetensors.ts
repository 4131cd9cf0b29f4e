/** Safetensors files for tests: read into memory, changed, written again. Trusts its input; shares no code with the readers under test. */
import { readFileSync, writeFileSync } from 'node:fs';

export interface StoredTensor {
  /** F32, BF16 or F16 */
  dtype: string;
  shape: number[];
  data: Buffer;
}

/** By name, in the order of the file. */
export type Tensors = Map<string, StoredTensor>;

interface HeaderEntry {
  dtype: string;
  shape: number[];
  data_offsets: [begin: number, end: number];
}

export function readSafetensors(file: string): Tensors {
  const bytes = readFileSync(file);
  const dataBegin = 8 + Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.toString('utf8', 8, dataBegin)) as Record<string, HeaderEntry>;
  const entries = Object.entries(header).filter(([name]) => name !== '__metadata__');
  return new Map(
    entries.map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [begin, end],
        },
      ]) => [name, { dtype, shape, data: bytes.subarray(dataBegin + begin, dataBegin + end) }],
    ),
  );
}

/** The header's entries of tensors that follow each other without gaps. */
export function headerOf(tensors: Tensors): Record<string, HeaderEntry> {
  let offset = 0;
  const entries = [...tensors].map(([name, { dtype, shape, data }]) => {
    const begin = offset;
    offset += data.length;
    return [name, { dtype, shape, data_offsets: [begin, offset] }] as const;
  });
  return Object.fromEntries(entries) as Record<string, HeaderEntry>;
}

/** Length, header, data. `header` is text, so that a test can write one that JSON.stringify would not. */
export function writeRawSafetensors(file: string, header: string, data: readonly Buffer[]): void {
  const text = Buffer.from(header);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(file, Buffer.concat([length, text, ...data]));
}

export function writeSafetensors(file: string, tensors: Tensors): void {
  const data = [...tensors.values()].map((tensor) => tensor.data);
  writeRawSafetensors(file, JSON.stringify(headerOf(tensors)), data);
}

/** Bytes of all tensors, the file's header not included. */
export function tensorBytes(tensors: Tensors): number {
  return [...tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
}

/** An f32 tensor as f16: nearest, ties to even. */
export function toF16(tensor: StoredTensor): StoredTensor {
  const count = tensor.data.length / 4;
  const data = Buffer.alloc(count * 2);
  for (let index = 0; index < count; index += 1) {
    data.writeUInt16LE(f16BitsOf(tensor.data.readFloatLE(index * 4)), index * 2);
  }
  return { dtype: 'F16', shape: tensor.shape, data };
}

/** Numbers below 2^-14 are multiples of 2^-24; above, a number has 11 significant bits. */
function f16BitsOf(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (!(magnitude < 65_520)) throw new RangeError(`${value} does not fit f16`);
  const exponent = Math.max(-14, Math.floor(Math.log2(magnitude || 2 ** -24)));
  const steps = roundHalfEven(magnitude / 2 ** (exponent - 10));
  // Rounding up to 2048 steps carries into the exponent by itself: 1024 more is one exponent more.
  return sign | (exponent === -14 ? steps : (exponent + 14) * 1024 + steps);
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
