import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { JobThread } from './job-thread.ts';

/** sha256 (hex) of the file's bytes, on the caller's own thread. */
export async function sha256Here(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file, { highWaterMark: 2 ** 20 })) {
    hash.update(chunk as Buffer);
  }
  return hash.digest('hex');
}

/** About 5 ms; from there on others would notice. */
const hereBytesMax = 4 * 2 ** 20;

/** The same, beside the event loop when it takes long: weights take a millisecond for each MiB. */
export async function sha256Of(file: string, sizeBytes: bigint): Promise<string> {
  if (sizeBytes <= hereBytesMax) return await sha256Here(file);
  const thread = new JobThread<string, string>('file-hash-thread-main', import.meta.url);
  try {
    return await thread.run(file);
  } finally {
    await thread.close();
  }
}
