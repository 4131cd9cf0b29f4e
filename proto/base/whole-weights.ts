/**
 * Whether weights are all there and those of their model, as far as their headers tell: what a worker would find out when what served has
 * made room already. What a header should not be at all, the worker says.
 */
import { join } from 'node:path';
import { HelsError } from '../domain/errors.ts';
import type { ModelSpec } from '../domain/model-spec.ts';
import { type NeededTensor, neededTensors } from '../domain/model-tensors.ts';
import type { ModelFiles } from './model-files.ts';
import { type HeaderEntry, readHeader } from './safetensors-header.ts';

interface StoredTensor extends HeaderEntry {
  path: string;
}

function refuse(path: string, problem: string): never {
  throw new HelsError('model-invalid', `${path}: ${problem}`, { field: path });
}

function isWithin({ data_offsets: offsets }: HeaderEntry, dataBytes: number): boolean {
  const [begin, end] = Array.isArray(offsets) ? offsets : [Number.NaN, Number.NaN];
  return begin >= 0 && begin <= end && end <= dataBytes;
}

async function readTensors(path: string): Promise<StoredTensor[]> {
  const fix = 'is it truncated? Fetch it again';
  const { tensors, dataBytes } = await readHeader(path).catch((error: unknown) =>
    refuse(
      path,
      `no safetensors: ${error instanceof Error ? error.message : String(error)}; ${fix}`,
    ),
  );
  const torn = tensors.find((tensor) => !isWithin(tensor, dataBytes));
  if (torn !== undefined) {
    const where = `lies at [${torn.data_offsets}) of the data`;
    refuse(
      path,
      `tensor '${torn.name}' ${where}, of which the file has ${dataBytes} bytes; ${fix}`,
    );
  }
  return tensors.map((tensor) => ({ ...tensor, path }));
}

/** Of a header, it may be anything. */
function shapeText(shape: readonly number[]): string {
  return Array.isArray(shape) ? `[${shape.join(', ')}]`.slice(0, 100) : 'none';
}

/** null: it is what the model needs. */
function problemOf({ name, shape, dtype }: StoredTensor, needed: NeededTensor): string | null {
  const [found, demanded] = [shapeText(shape), shapeText(needed.shape)];
  if (found !== demanded) {
    return `tensor '${name}' has shape ${found}; the model's config demands ${demanded}`;
  }
  if (needed.dtypes.includes(dtype)) return null;
  return `tensor '${name}' has type '${dtype}'; it must be ${needed.dtypes.join(' or ')}`;
}

type WeightFiles = Pick<ModelFiles, 'directory' | 'weightFiles' | 'fileOfTensor'>;

const isQuantizedPart = ({ name }: StoredTensor) => /\.(qweight|scales)$/.test(name);

/** Throws model-invalid naming the file and the tensor that is missing, not in its file, or of another shape or type. */
export async function requireWholeWeights(
  { directory, weightFiles, fileOfTensor }: WeightFiles,
  model: ModelSpec,
): Promise<void> {
  const stored: StoredTensor[] = [];
  for (const file of weightFiles) {
    const tensors = await readTensors(join(directory, file));
    const isOfModel = ({ name }: StoredTensor) =>
      fileOfTensor === null || fileOfTensor.get(name) === file;
    stored.push(...tensors.filter(isOfModel));
  }
  const part = stored.find(isQuantizedPart);
  if (part !== undefined && model.quantization === 'none') {
    const fix = 'config.json must say so in quantization_config';
    refuse(part.path, `tensor '${part.name}' is quantised; ${fix}`);
  }
  const byName = new Map(stored.map((tensor) => [tensor.name, tensor]));
  for (const needed of neededTensors(model, part !== undefined)) {
    const tensor = byName.get(needed.name);
    if (tensor === undefined) {
      const demanded = `the model's config demands one of shape ${shapeText(needed.shape)}`;
      refuse(directory, `tensor '${needed.name}' is missing; ${demanded}`);
    }
    const problem = problemOf(tensor, needed);
    if (problem !== null) refuse(tensor.path, problem);
  }
}
