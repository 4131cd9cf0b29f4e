/** Of what type a model's weights are, read from the headers of its safetensors files. */
import { join } from 'node:path';
import type { WeightType } from '../domain/model-config.ts';
import type { ModelFiles } from './model-files.ts';
import { readHeader } from './safetensors-header.ts';

const types: ReadonlyMap<string, WeightType> = new Map([
  ['F32', 'f32'],
  ['BF16', 'bf16'],
  ['F16', 'f16'],
]);

/**
 * The one of f32, bf16 and f16 that most bytes of the weights are of: norms are often kept in another. null when a file cannot be read
 * as safetensors; whoever loads the weights says what is wrong with it.
 */
export async function storedWeightType(
  files: Pick<ModelFiles, 'directory' | 'weightFiles'>,
): Promise<WeightType | null> {
  const bytes = new Map<WeightType, number>();
  try {
    for (const name of files.weightFiles) {
      const { tensors } = await readHeader(join(files.directory, name));
      for (const { dtype, data_offsets } of tensors) {
        const [begin, end] = data_offsets;
        const type = types.get(dtype);
        if (type !== undefined) bytes.set(type, (bytes.get(type) ?? 0) + end - begin);
      }
    }
  } catch {
    return null;
  }
  const [most] = [...bytes].sort(([, left], [, right]) => right - left);
  return most?.[0] ?? null;
}
