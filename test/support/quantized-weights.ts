/** The values that a quantised file stands for, by the words of docs/weight-format.md alone. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { StoredTensor, Tensors } from './safetensors.ts';

const groupInputs = 32;

function f16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 1023;
  return exponent === 0
    ? sign * mantissa * 2 ** -24
    : sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

function granuleOf(name: string, columns: number, directory: string): number {
  const config = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')) as Record<
    string,
    number
  >;
  if (/\.(down_proj|fc2)$/.test(name)) return Math.ceil(Math.ceil(columns / 16) / 8) * 8;
  if (!/\.(o_proj|out_proj)$/.test(name)) return columns;
  const heads = config['num_attention_heads'] ?? 1;
  return columns / (config['num_key_value_heads'] ?? heads);
}

function dequantized(integers: StoredTensor, scales: StoredTensor, granule: number): StoredTensor {
  const [rows = 0, width = 0] = integers.shape;
  const columns = integers.dtype === 'I8' ? width : 2 * width;
  const data = Buffer.alloc(4 * rows * columns);
  let group = 0;
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      const inGranule = column % granule;
      if (column > 0 && inGranule % groupInputs === 0) group += 1;
      const integer =
        integers.dtype === 'I8'
          ? integers.data.readInt8(row * width + column)
          : ((integers.data.readUInt8(row * width + (column >> 1)) >> (4 * (column % 2))) & 15) - 8;
      const value = integer * f16(scales.data.readUInt16LE(2 * group));
      data.writeFloatLE(value, 4 * (row * columns + column));
    }
    group += 1;
  }
  return { dtype: 'F32', shape: [rows, columns], data };
}

/** Of the tensors of a quantised file; `directory` has the model's config.json. Matrices of an even number of columns. */
export function dequantizedTensors(tensors: Tensors, directory: string): Tensors {
  return new Map(
    [...tensors].flatMap(([name, tensor]) => {
      if (name.endsWith('.scales')) return [];
      if (!name.endsWith('.qweight')) return [[name, tensor] as const];
      const base = name.slice(0, -'.qweight'.length);
      const scales = tensors.get(`${base}.scales`);
      if (scales === undefined) throw new Error(`${base}.scales is missing`);
      const columns = (tensor.shape[1] ?? 0) * (tensor.dtype === 'I8' ? 1 : 2);
      const granule = granuleOf(base, columns, directory);
      return [[`${base}.weight`, dequantized(tensor, scales, granule)] as const];
    }),
  );
}
