/** Which tensors a quantised model directory has, from the tensors of the model (docs/weight-format.md). Pure. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import {
  modelTensors,
  type QuantizedMatrix,
  quantizedParts,
} from '../../proto/domain/model-tensors.ts';
import type { TensorDescription } from '../binding/native.ts';

type MatrixShape = [rows: number, columns: number];

/** A tensor of the new file and how it comes about. */
export type TargetTensor = {
  name: string;
  dtype: string;
  shape: number[];
  sizeBytes: number;
  /** The tensor that it is made of. */
  source: string;
} & (
  | { kind: 'integers' | 'scales'; sourceShape: MatrixShape; bits: 8 | 4; granule: number }
  | { kind: 'bf16'; sourceShape: MatrixShape }
  | { kind: 'copy' }
);

/** By tensor name, without the `.weight`. */
export function quantizedMatrices(model: ModelSpec): Map<string, QuantizedMatrix> {
  return new Map(
    modelTensors(model).flatMap(({ name, quantized }) =>
      quantized === null ? [] : [[name.replace(/\.weight$/, ''), quantized] as const],
    ),
  );
}

function quantizedPair(
  { name, shape: [rows = 0, columns = 0] }: TensorDescription,
  matrix: QuantizedMatrix,
): TargetTensor[] {
  const sourceShape: MatrixShape = [rows, columns];
  const { integers, scales } = quantizedParts(name, sourceShape, matrix);
  const common = { ...matrix, source: name, sourceShape };
  const elements = ([partRows = 0, partColumns = 0]: number[]) => partRows * partColumns;
  return [
    { ...common, kind: 'integers', ...integers, sizeBytes: elements(integers.shape) },
    { ...common, kind: 'scales', ...scales, sizeBytes: 2 * elements(scales.shape) },
  ];
}

const storedWords: Readonly<Record<string, string>> = { f32: 'F32', bf16: 'BF16', f16: 'F16' };

/** The tensors of the new file: matrices quantised, tables in bf16, everything else as it is. */
export function targetTensors(
  model: ModelSpec,
  tensors: readonly TensorDescription[],
): TargetTensor[] {
  const matrices = quantizedMatrices(model);
  const missing = [...matrices.keys()].find(
    (base) => !tensors.some(({ name, shape }) => name === `${base}.weight` && shape.length === 2),
  );
  if (missing !== undefined) {
    throw new HelsError('model-invalid', `tensor '${missing}.weight' is missing`);
  }
  return tensors.flatMap((tensor): TargetTensor[] => {
    const { name, type, shape, sizeBytes } = tensor;
    const matrix = matrices.get(name.replace(/\.weight$/, ''));
    if (matrix !== undefined && name.endsWith('.weight')) return quantizedPair(tensor, matrix);
    const common = { name, shape, source: name };
    const [rows, columns] = shape;
    if (type in storedWords && shape.length === 2 && rows !== undefined && columns !== undefined) {
      const sourceShape: MatrixShape = [rows, columns];
      const sizeBytes = 2 * rows * columns;
      return [{ kind: 'bf16', ...common, dtype: 'BF16', sizeBytes, sourceShape }];
    }
    return [{ kind: 'copy', ...common, dtype: storedWords[type] ?? type, sizeBytes }];
  });
}
