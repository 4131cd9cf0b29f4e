/** Broken copies of the models in the tree, and what must be said of them. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { inspectDirectory } from '../../worker/tools/inspect.ts';
import { editConfig, type GoldenModel, type ScratchModels, shortGolden } from './golden-models.ts';
import { helsctl } from './helsctl.ts';
import { headerOf, readSafetensors, writeRawSafetensors } from './safetensors.ts';

export interface Broken {
  name: string;
  /** Default: llama-gqa. */
  model?: string;
  break: Change;
  /** Every one is in the message. */
  message: string[];
}

/** Spoils the model in `directory`. */
type Change = (directory: string) => void;

type Header = ReturnType<typeof headerOf>;

export const weightsName = 'model.safetensors';

/** Rewrites the header, as text where JSON.stringify would not write it, and keeps the data. */
export function editHeader(change: (header: Header) => string | Header): Change {
  return (directory) => {
    const file = join(directory, weightsName);
    const tensors = readSafetensors(file);
    const changed = change(headerOf(tensors));
    const text = typeof changed === 'string' ? changed : JSON.stringify(changed);
    writeRawSafetensors(
      file,
      text,
      [...tensors.values()].map(({ data }) => data),
    );
  };
}

/** Overwrites the length of the header. */
export function writeLength(length: bigint): Change {
  return (directory) => {
    const file = join(directory, weightsName);
    const bytes = readFileSync(file);
    bytes.writeBigUInt64LE(length);
    writeFileSync(file, bytes);
  };
}

/** Leaves the first `bytes` of the weights. */
export function cut(bytes: number): Change {
  return (directory) => truncateSync(join(directory, weightsName), bytes);
}

export function config(fields: Record<string, unknown>): Change {
  return (directory) => editConfig(directory, (others) => ({ ...others, ...fields }));
}

export function write(name: string, text: string): Change {
  return (directory) => writeFileSync(join(directory, name), text);
}

/** `helsctl model verify` refuses it with exit code 4 and the message, nothing else; `inspect` finds the same problem. */
export async function expectRefused(
  scratch: ScratchModels,
  broken: Broken,
  subject: GoldenModel = shortGolden(broken.model ?? 'llama-gqa'),
): Promise<void> {
  const directory = scratch.copyOf(subject);
  broken.break(directory);
  const [verify, inspection] = await Promise.all([
    helsctl('model', 'verify', '--model', directory, '--golden', subject.golden, '--json'),
    inspectDirectory(directory),
  ]);
  expect(verify.stdout).toBe('');
  // One JSON object and nothing beside it: no trace of an exception.
  const { error } = JSON.parse(verify.stderr) as { error: { code: string; message: string } };
  expect(error.code).toBe('model-invalid');
  for (const part of broken.message) expect(error.message).toContain(part);
  expect(verify.exitCode).toBe(4);
  const told = inspection.problems.filter(({ check }) => check !== 'tokenizer');
  expect(told.map(({ message }) => message)).toContain(error.message);
}
