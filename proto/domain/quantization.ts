/**
 * Quantised weights (docs/weight-format.md): integers of 8 or 4 bits, and a scale for each group of 32 inputs. The numbers are those
 * of native/base/quantization.h and native/kernels/cpu/packed_matrix.h. Pure.
 */
import { type ConfigReader, configError, isRecord } from './model-config-reader.ts';

export type Quantization = 'none' | 'int8' | 'int4';

/** auto: as the model's files are. */
export const quantizationOptions = ['auto', 'int8', 'int4'] as const;
export type QuantizationOption = (typeof quantizationOptions)[number];

/** Inputs that share a scale; the last group of a granule may be shorter. */
export const groupInputs = 32;
const scaleBytes = 2;
const bitsOf = { int8: 8, int4: 4 } as const;

/** What config.json says of files that are quantised. */
export interface QuantizationConfig {
  quant_method: 'hels';
  format: 1;
  bits: 8 | 4;
  /** Of lm_head, or of the embedding where it is the head too. */
  head_bits: 8;
  group_size: typeof groupInputs;
}

export function quantizationConfig(quantization: 'int8' | 'int4'): QuantizationConfig {
  return {
    quant_method: 'hels',
    format: 1,
    bits: bitsOf[quantization],
    head_bits: 8,
    group_size: groupInputs,
  };
}

const allowedValues: Readonly<Record<string, readonly unknown[]>> = {
  quant_method: ['hels'],
  format: [1],
  bits: [8, 4],
  head_bits: [8],
  group_size: [groupInputs],
};

/** What the files hold. Throws model-invalid naming the field of quantization_config, its value and what is allowed. */
function storedQuantization(reader: ConfigReader): Quantization {
  const value = reader.raw('quantization_config');
  if (value === null) return 'none';
  if (!isRecord(value)) throw configError('quantization_config', value, 'write an object or null');
  const wrong = Object.keys(allowedValues).find(
    (name) => allowedValues[name]?.includes(value[name]) !== true,
  );
  if (wrong !== undefined) {
    const allowed = allowedValues[wrong]?.map((word) => JSON.stringify(word)).join(' or ');
    throw configError(
      `quantization_config.${wrong}`,
      value[wrong],
      `Hels reads ${allowed} here; other quantised files cannot be served: use the f32, bf16 or f16 files of the model`,
    );
  }
  const unknown = Object.keys(value).find((name) => !Object.hasOwn(allowedValues, name));
  if (unknown !== undefined) {
    throw configError(`quantization_config.${unknown}`, value[unknown], 'Hels has no such field');
  }
  return value['bits'] === 8 ? 'int8' : 'int4';
}

/** How weights are kept: as the files are, or quantised at load. Throws model-invalid when the files cannot become what is asked. */
export function readQuantization(reader: ConfigReader, option: QuantizationOption): Quantization {
  const stored = storedQuantization(reader);
  if (option === 'auto' || option === stored) return stored;
  if (stored === 'none') return option;
  throw configError(
    'quantization_config',
    reader.raw('quantization_config'),
    `the files are ${stored} already and cannot become ${option}; use the model's unquantised files`,
  );
}

/** Packed bytes of one output column of `inputs` inputs that fall into granules of `granule`. */
function columnBytes(quantization: 'int8' | 'int4', inputs: number, granule: number): number {
  const unitInputs = 32 / bitsOf[quantization];
  const group = (size: number) => scaleBytes + 4 * Math.ceil(size / unitInputs);
  const granuleBytes = (size: number) => {
    const rest = size % groupInputs;
    return Math.floor(size / groupInputs) * group(groupInputs) + (rest === 0 ? 0 : group(rest));
  };
  return Math.floor(inputs / granule) * granuleBytes(granule) + granuleBytes(inputs % granule);
}

/** Bytes of a weight of a matrix, its share of the scales included. */
export function quantizedBytesPerWeight(
  quantization: 'int8' | 'int4',
  inputs: number,
  granule = inputs,
): number {
  return columnBytes(quantization, inputs, granule) / inputs;
}
