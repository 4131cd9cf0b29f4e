/** Whether weights are all there, as far as their headers tell: what a worker would find out when what served has made room already. */
import { join } from 'node:path';
import { HelsError } from '../domain/errors.ts';
import type { ModelFiles } from './model-files.ts';
import { type HeaderEntry, readHeader } from './safetensors-header.ts';

function isWithin({ data_offsets: offsets }: HeaderEntry, dataBytes: number): boolean {
  const [begin, end] = Array.isArray(offsets) ? offsets : [Number.NaN, Number.NaN];
  return begin >= 0 && begin <= end && end <= dataBytes;
}

/** Throws model-invalid naming the file, and the tensor that is not in it. Of shapes and types the workers say whether they are the model's. */
export async function requireWholeWeights(
  files: Pick<ModelFiles, 'directory' | 'weightFiles'>,
): Promise<void> {
  for (const name of files.weightFiles) {
    const path = join(files.directory, name);
    const refuse = (problem: string): never => {
      const fix = 'is it truncated? Fetch it again';
      throw new HelsError('model-invalid', `${path}: ${problem}; ${fix}`, { field: path });
    };
    const { tensors, dataBytes } = await readHeader(path).catch((error: unknown) =>
      refuse(`no safetensors: ${error instanceof Error ? error.message : String(error)}`),
    );
    const torn = tensors.find((tensor) => !isWithin(tensor, dataBytes));
    if (torn === undefined) continue;
    refuse(
      `tensor '${torn.name}' lies at [${torn.data_offsets}) of the data, of which the file has ${dataBytes} bytes`,
    );
  }
}
