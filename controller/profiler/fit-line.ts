import { fcnnlsVector } from 'ml-fcnnls';
import { Matrix } from 'ml-matrix';

/** Rounds of reweighting after which the fit has settled. */
export const settledRounds = 12;

/** Relative errors below this count alike: the reweighting must not chase the last digit. */
const errorFloor = 0.003;

/** Coefficients >= 0 that make the summed squared `weights`-scaled errors of `design * coefficients` against 1 least. */
function weightedFit(design: readonly (readonly number[])[], weights: readonly number[]): number[] {
  const weighted = design.map((row, index) =>
    row.map((value) => value * (weights[index] as number)),
  );
  const columns = design[0]?.length ?? 0;
  // Columns of length 1: the solver's tolerance is absolute.
  const lengths = Array.from({ length: columns }, (_, column) =>
    Math.sqrt(weighted.reduce((sum, row) => sum + (row[column] as number) ** 2, 0)),
  );
  const scaled = weighted.map((row) =>
    row.map((value, column) => value / (lengths[column] as number)),
  );
  const solution = fcnnlsVector(new Matrix(scaled), [...weights]).K.to1DArray();
  return solution.map((value, column) => value / (lengths[column] as number));
}

/**
 * Coefficients >= 0 that make the summed absolute *relative* errors of `design * coefficients` against `seconds` (> 0) least:
 * non-negative least squares, reweighted by the inverse square root of each error (Lawson 1961). Absolute errors, because a timing
 * grid has outliers and steps that squares would chase. Only `columns`, which must be independent, take part; the others get 0. One of the `rounds` is the plain
 * least-squares fit.
 */
export function fitNonNegative(
  design: readonly (readonly number[])[],
  seconds: readonly number[],
  columns: readonly number[],
  rounds: number,
): number[] {
  const coefficients = new Array<number>(design[0]?.length ?? 0).fill(0);
  if (columns.length === 0) return coefficients;
  const relative = design.map((row, index) =>
    columns.map((column) => (row[column] as number) / (seconds[index] as number)),
  );
  let weights = new Array<number>(design.length).fill(1);
  let solution: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    solution = weightedFit(relative, weights);
    weights = relative.map((row) => {
      const ratio = row.reduce((sum, value, index) => sum + value * (solution[index] as number), 0);
      return 1 / Math.sqrt(Math.max(Math.abs(ratio - 1), errorFloor));
    });
  }
  for (const [index, column] of columns.entries()) coefficients[column] = solution[index] as number;
  return coefficients;
}
