import { readFile } from 'node:fs/promises';
import { parse as parseYaml } from 'yaml';
import { type ErrorCode, HelsError } from '../../proto/domain/errors.ts';

/** Bytes of an input file; far above any real one. */
const inputBytesMax = 64 * 2 ** 20;

export const causeText = (error: unknown): string =>
  error instanceof Error ? error.message : String(error);

const oneLine = (error: unknown): string => causeText(error).replaceAll(/\s*\n\s*/g, ' ');

async function readStandardInput(): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes > inputBytesMax) break;
  }
  return Buffer.concat(chunks);
}

/** How a file is called in errors: the option that named it, and the code of what is wrong with it. */
export interface FileOptions {
  readonly option: string;
  readonly format: 'json' | 'yaml';
  readonly code?: ErrorCode;
}

/**
 * A parsed file, `-` for standard input; YAML includes JSON. Throws the given code (config-invalid) naming option, path and problem in one
 * line.
 */
export async function readParsed(path: string, options: FileOptions): Promise<unknown> {
  const { option, format, code = 'config-invalid' } = options;
  const refuse = (problem: string): never => {
    throw new HelsError(code, `${option}: ${path} ${problem}`, { field: option });
  };
  let content: Buffer;
  try {
    content = path === '-' ? await readStandardInput() : await readFile(path);
  } catch (error) {
    return refuse(`cannot be read: ${oneLine(error)}`);
  }
  if (content.length > inputBytesMax) return refuse(`is larger than ${inputBytesMax} bytes`);
  const text = content.toString('utf8');
  try {
    return format === 'yaml' ? (parseYaml(text) as unknown) : (JSON.parse(text) as unknown);
  } catch (error) {
    return refuse(`is not ${format.toUpperCase()}: ${oneLine(error)}`);
  }
}
