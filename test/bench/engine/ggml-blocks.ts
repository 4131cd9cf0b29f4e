/** Rows of bf16 as llama.cpp's quantised blocks of 32: q8_0 (an f16 scale, 32 signed bytes) and q4_0 (an f16 scale, 32 halves of a byte). Pure. */

export type QuantizedType = 'q8_0' | 'q4_0';

export const blockElements = 32;
export const blockBytes = { q8_0: 34, q4_0: 18 } as const;

const halfExponentMin = -14;
const halfMantissa = 2 ** 10;

/** Bits of a number from 0 to 65504 as f16, rounded to nearest. */
function halfOf(value: number): number {
  if (value === 0) return 0;
  const exponent = Math.max(halfExponentMin, Math.floor(Math.log2(value)));
  const mantissa = Math.round((value / 2 ** exponent) * halfMantissa);
  return mantissa + (exponent - halfExponentMin) * halfMantissa;
}

const signBit = 0x8000;
const bounded = (value: number, low: number, high: number) =>
  Math.min(high, Math.max(low, Math.round(value)));

/** The largest magnitude is 127 steps. */
function writeQ8(values: Float32Array, target: Buffer, offset: number): void {
  const step = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 127;
  target.writeUInt16LE(halfOf(step), offset);
  for (const [index, value] of values.entries()) {
    target.writeInt8(step === 0 ? 0 : bounded(value / step, -127, 127), offset + 2 + index);
  }
}

/** The value of largest magnitude is -8 steps, so the step has the other sign; half a byte is 8 more than its steps. */
function writeQ4(values: Float32Array, target: Buffer, offset: number): void {
  const extreme = values.reduce(
    (most, value) => (Math.abs(value) > Math.abs(most) ? value : most),
    0,
  );
  const step = extreme / -8;
  target.writeUInt16LE(halfOf(Math.abs(step)) + (step < 0 ? signBit : 0), offset);
  const nibble = (index: number) =>
    step === 0 ? 8 : bounded((values[index] ?? 0) / step + 8, 0, 15);
  for (let index = 0; index < blockElements / 2; index += 1) {
    const pair = nibble(index) + 16 * nibble(index + blockElements / 2);
    target.writeUInt8(pair, offset + 2 + index);
  }
}

/** Throws when the elements are not whole blocks. */
export function quantizedBlocks(bf16: Buffer, type: QuantizedType): Buffer {
  const elements = bf16.length / 2;
  if (elements % blockElements !== 0) {
    throw new Error(`${elements} elements are not whole blocks of ${blockElements}`);
  }
  const write = type === 'q8_0' ? writeQ8 : writeQ4;
  const target = Buffer.alloc((elements / blockElements) * blockBytes[type]);
  const words = new Uint32Array(blockElements);
  const values = new Float32Array(words.buffer);
  for (let block = 0; block * blockElements < elements; block += 1) {
    for (let index = 0; index < blockElements; index += 1) {
      words[index] = bf16.readUInt16LE(2 * (block * blockElements + index)) << 16;
    }
    write(values, target, block * blockBytes[type]);
  }
  return target;
}
