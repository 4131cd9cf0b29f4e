import { Matrix, SingularValueDecomposition } from 'ml-matrix';

export interface Identification {
  /** Columns that the points can tell apart, ascending. */
  readonly kept: readonly number[];
  /** Columns that are zero or a combination of earlier ones: nothing can be said about their coefficients. */
  readonly dropped: readonly number[];
}

/** A column whose part outside the span of the earlier ones is shorter than this, relative, is one of them. */
const independentMin = 1e-6;

const dot = (left: readonly number[], right: readonly number[]): number =>
  left.reduce((sum, value, index) => sum + value * (right[index] as number), 0);

const lengthOf = (column: readonly number[]): number => Math.sqrt(dot(column, column));

/** What is left of `column` after its projections on the orthonormal `basis`, taken twice against rounding. */
function residualOf(column: readonly number[], basis: readonly (readonly number[])[]): number[] {
  let residual = [...column];
  for (let pass = 0; pass < 2; pass += 1) {
    for (const direction of basis) {
      const along = dot(residual, direction);
      residual = residual.map((value, row) => value - along * (direction[row] as number));
    }
  }
  return residual;
}

/** Sorts the columns of a design (rows of equal length) into identifiable ones and the rest. */
export function identify(design: readonly (readonly number[])[]): Identification {
  const columnCount = design[0]?.length ?? 0;
  const kept: number[] = [];
  const dropped: number[] = [];
  const basis: number[][] = [];
  for (let index = 0; index < columnCount; index += 1) {
    const column = design.map((row) => row[index] as number);
    const length = lengthOf(column);
    const unit = column.map((value) => (length > 0 ? value / length : 0));
    const residual = residualOf(unit, basis);
    const left = lengthOf(residual);
    if (left < independentMin) {
      dropped.push(index);
      continue;
    }
    kept.push(index);
    basis.push(residual.map((value) => value / left));
  }
  return { kept, dropped };
}

/** Largest over smallest singular value of the given columns, each scaled to length 1: how much noise they may amplify. */
export function conditionNumber(
  design: readonly (readonly number[])[],
  columns: readonly number[],
): number {
  if (columns.length === 0) return 1;
  const lengths = columns.map((column) => lengthOf(design.map((row) => row[column] as number)));
  const scaled = design.map((row) =>
    columns.map((column, index) => (row[column] as number) / (lengths[index] as number)),
  );
  return new SingularValueDecomposition(new Matrix(scaled)).condition;
}
