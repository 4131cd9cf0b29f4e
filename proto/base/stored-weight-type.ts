/** Of what type a model's weights are, read from the headers of its safetensors files. */
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { WeightType } from '../domain/model-config.ts';
import type { ModelFiles } from './model-files.ts';

const types: ReadonlyMap<string, WeightType> = new Map([
  ['F32', 'f32'],
  ['BF16', 'bf16'],
  ['F16', 'f16'],
]);

/** As in the format's own library. */
const headerBytesMax = 100_000_000;

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
      for (const {
        dtype,
        data_offsets: [begin, end],
      } of await readHeader(join(files.directory, name))) {
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

interface HeaderEntry {
  dtype: string;
  data_offsets: [begin: number, end: number];
}

/** Length in 8 bytes, then a JSON object with an entry for each tensor. Throws when it is not like that. */
async function readHeader(path: string): Promise<HeaderEntry[]> {
  const file = await open(path);
  try {
    const length = Number((await readBytes(file, 8, 0)).readBigUInt64LE());
    if (length > headerBytesMax) throw new Error(`a header of ${length} bytes`);
    const text = (await readBytes(file, length, 8)).toString('utf8');
    const header = JSON.parse(text) as Record<string, HeaderEntry>;
    return Object.entries(header).flatMap(([name, entry]) =>
      name === '__metadata__' ? [] : [entry],
    );
  } finally {
    await file.close();
  }
}

async function readBytes(file: FileHandle, length: number, position: number): Promise<Buffer> {
  const { bytesRead, buffer } = await file.read(Buffer.alloc(length), 0, length, position);
  if (bytesRead < length) throw new Error('the file ends within its header');
  return buffer;
}
