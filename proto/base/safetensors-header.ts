/** Headers of safetensors files: which tensors there are, and where. */
import { type FileHandle, open } from 'node:fs/promises';

/** As in the format's own library. */
const headerBytesMax = 100_000_000;

export interface HeaderEntry {
  name: string;
  dtype: string;
  shape: number[];
  /** Within the file's data. */
  data_offsets: [begin: number, end: number];
}

interface Header {
  tensors: HeaderEntry[];
  /** Of the data that follows. */
  dataBytes: number;
}

/** Length in 8 bytes, then a JSON object with an entry for each tensor. Throws when it is not like that. */
export async function readHeader(path: string): Promise<Header> {
  const file = await open(path);
  try {
    const length = Number((await readBytes(file, 8, 0)).readBigUInt64LE());
    if (length > headerBytesMax) throw new Error(`a header of ${length} bytes`);
    const text = (await readBytes(file, length, 8)).toString('utf8');
    const header = JSON.parse(text) as Record<string, Omit<HeaderEntry, 'name'>>;
    const tensors = Object.entries(header).flatMap(([name, entry]) =>
      name === '__metadata__' ? [] : [{ ...entry, name }],
    );
    return { tensors, dataBytes: (await file.stat()).size - 8 - length };
  } finally {
    await file.close();
  }
}

async function readBytes(file: FileHandle, length: number, position: number): Promise<Buffer> {
  const { bytesRead, buffer } = await file.read(Buffer.alloc(length), 0, length, position);
  if (bytesRead < length) throw new Error('the file ends within its header');
  return buffer;
}
