/** What the benchmarks of the engine have in common: the shapes asked for, and figures that may be missing. */
import { type ModelShape, shape110M, shape1100M } from '../random-model.ts';

const shapes: Readonly<Record<string, ModelShape>> = { '110m': shape110M, '1.1b': shape1100M };
const shapesVariable = 'HELS_ENGINE_SHAPES';

export function chosenShapes(): ModelShape[] {
  const names = (process.env[shapesVariable] ?? Object.keys(shapes).join(',')).split(',');
  return names.map((name) => {
    const shape = shapes[name];
    if (shape === undefined) {
      const known = Object.keys(shapes).join(', ');
      throw new Error(`${shapesVariable} has '${name}'; it is a list of ${known}`);
    }
    return shape;
  });
}

const reasonOf = (error: unknown) =>
  String((error as { stderr?: unknown }).stderr ?? '') ||
  (error instanceof Error ? error.message : String(error));

/** Null with a note where it fails: the other figures stand without it. */
export async function orNote<Value>(
  notes: string[],
  what: string,
  body: () => Value | Promise<Value>,
): Promise<Value | null> {
  try {
    return await body();
  } catch (error) {
    notes.push(`${what}: ${reasonOf(error).trim().slice(-500)}`);
    return null;
  }
}
