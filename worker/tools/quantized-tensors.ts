/** Which tensors a quantised model directory has, from the tensors of the model (docs/weight-format.md). Pure. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import { groupInputs } from '../../proto/domain/quantization.ts';
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

/** Of a matrix that is quantised: its bits, and the columns whose groups are counted together. */
interface QuantizedMatrix {
  bits: 8 | 4;
  granule: number;
}

/** By tensor name, without the `.weight`. */
export function quantizedMatrices(model: ModelSpec): Map<string, QuantizedMatrix> {
  const opt = model.naming === 'opt';
  const bits = model.quantization === 'int4' ? 4 : 8;
  const whole = { bits, granule: model.hiddenSize } as const;
  const attention = { bits, granule: model.queryHeadsPerGroup * model.headDim } as const;
  const mlp = { bits, granule: model.ffnGranule } as const;
  const matrices = new Map<string, QuantizedMatrix>();
  for (let layer = 0; layer < model.layers; layer += 1) {
    const prefix = `${opt ? 'model.decoder' : 'model'}.layers.${layer}.`;
    for (const name of ['q_proj', 'k_proj', 'v_proj']) {
      matrices.set(`${prefix}self_attn.${name}`, whole);
    }
    matrices.set(`${prefix}self_attn.${opt ? 'out_proj' : 'o_proj'}`, attention);
    if (model.gatedMlp) matrices.set(`${prefix}mlp.gate_proj`, whole);
    matrices.set(`${prefix}${opt ? 'fc1' : 'mlp.up_proj'}`, whole);
    matrices.set(`${prefix}${opt ? 'fc2' : 'mlp.down_proj'}`, mlp);
  }
  if (!model.tiedEmbeddings) {
    matrices.set('lm_head', { bits: 8, granule: model.embeddingSize });
  }
  return matrices;
}

/** Groups of `columns` columns that begin with a granule. */
export function groupCount(columns: number, granule: number): number {
  const groups = (size: number) => Math.ceil(size / groupInputs);
  return Math.floor(columns / granule) * groups(granule) + groups(columns % granule);
}

function quantizedPair(tensor: TensorDescription, matrix: QuantizedMatrix): TargetTensor[] {
  const { name, shape } = tensor;
  const [rows = 0, columns = 0] = shape;
  const base = name.slice(0, -'.weight'.length);
  const bytes = matrix.bits === 8 ? columns : Math.ceil(columns / 2);
  const groups = groupCount(columns, matrix.granule);
  const sourceShape: MatrixShape = [rows, columns];
  const dtype = matrix.bits === 8 ? 'I8' : 'U8';
  return [
    {
      ...matrix,
      ...{ kind: 'integers', name: `${base}.qweight`, dtype, shape: [rows, bytes] },
      ...{ sizeBytes: rows * bytes, source: name, sourceShape },
    },
    {
      ...matrix,
      ...{ kind: 'scales', name: `${base}.scales`, dtype: 'F16', shape: [rows, groups] },
      ...{ sizeBytes: 2 * rows * groups, source: name, sourceShape },
    },
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
