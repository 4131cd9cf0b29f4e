/** `quantize`: writes a model directory with 8-bit or 4-bit weights beside another one (docs/weight-format.md). */
import { constants } from 'node:fs';
import {
  copyFile,
  type FileHandle,
  mkdir,
  open,
  readdir,
  rename,
  rm,
  stat,
  statfs,
  writeFile,
} from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { readModelFiles } from '../../proto/base/model-files.ts';
import { formatBytes } from '../../proto/domain/device.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import { quantizationConfig } from '../../proto/domain/quantization.ts';
import { inspectModel, openQuantizer, type Quantizer } from '../binding/native.ts';
import { type TargetTensor, targetTensors } from './quantized-tensors.ts';

export interface QuantizeOptions {
  source: string;
  target: string;
  bits: 8 | 4;
  /** Replace what is at the target. */
  force: boolean;
  /** Told after each part: its tensor, and the share of all bytes that are written. */
  onProgress: (tensor: string, fraction: number) => void;
}

export interface QuantizeReport {
  source: string;
  target: string;
  quantization: 'int8' | 'int4';
  tensors: number;
  sourceBytes: number;
  targetBytes: number;
}

/** Elements of a matrix that are in memory at once. */
const partElements = 2 ** 24;

export async function quantizeModel(options: QuantizeOptions): Promise<QuantizeReport> {
  const { source, target } = await checkedPlaces(options);
  const quantization = options.bits === 8 ? 'int8' : 'int4';
  const files = await readModelFiles(source, { tokenizer: 'optional' });
  refuseQuantized(files.config);
  const stored = await inspectModel(source);
  const model = modelSpecFromConfig(files.config, { quantization });
  const tensors = targetTensors(model, stored);
  const targetBytes = tensors.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  await checkSpace(dirname(target), targetBytes);

  // Beside its place and renamed, so that a run that breaks leaves nothing that looks like a model.
  const unfinished = `${target}.unfinished-${process.pid}`;
  await mkdir(unfinished);
  try {
    await copyOthers(source, unfinished);
    const { torch_dtype: _, dtype: __, ...config } = files.config as Record<string, unknown>;
    const quantized = {
      ...config,
      torch_dtype: 'bfloat16',
      quantization_config: quantizationConfig(quantization),
    };
    await writeFile(join(unfinished, 'config.json'), `${JSON.stringify(quantized, null, 2)}\n`);
    const file = await open(join(unfinished, 'model.safetensors'), 'wx');
    try {
      await file.writeFile(headerOf(tensors));
      await writeTensors(file, openQuantizer(source), tensors, options.onProgress);
    } finally {
      await file.close();
    }
    if (options.force) await rm(target, { recursive: true, force: true });
    await rename(unfinished, target);
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
  const sourceBytes = stored.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  return { source, target, quantization, tensors: tensors.length, sourceBytes, targetBytes };
}

function usage(problem: string): HelsError {
  return new HelsError('usage', problem);
}

async function checkedPlaces(
  options: QuantizeOptions,
): Promise<{ source: string; target: string }> {
  const source = resolve(options.source);
  const target = resolve(options.target);
  const inside = relative(source, target);
  if (inside === '' || !inside.startsWith('..')) {
    throw usage(`TARGET ${target} lies in SOURCE ${source}; name another place`);
  }
  if (!relative(target, source).startsWith('..')) {
    throw usage(`SOURCE ${source} lies in TARGET ${target}; name another place`);
  }
  const there = await stat(target).catch(() => null);
  if (there !== null && !options.force) {
    throw usage(`TARGET ${target} exists; name another place, or replace it with --force`);
  }
  if (there !== null && !(await looksLikeModel(target))) {
    throw usage(`TARGET ${target} is not a model directory; --force replaces only one of those`);
  }
  const parent = await stat(dirname(target)).catch(() => null);
  if (parent?.isDirectory() !== true) {
    throw usage(`the directory ${dirname(target)} of TARGET is not there; create it first`);
  }
  return { source, target };
}

async function looksLikeModel(directory: string): Promise<boolean> {
  const names = await readdir(directory).catch((): string[] => []);
  return names.includes('config.json');
}

function refuseQuantized(config: unknown): void {
  const stored = (config as Record<string, unknown> | null)?.['quantization_config'] ?? null;
  if (stored === null) return;
  throw new HelsError(
    'model-invalid',
    `config.json: quantization_config is ${JSON.stringify(stored).slice(0, 120)}; SOURCE must have f32, bf16 or f16 weights`,
    { field: 'quantization_config' },
  );
}

async function checkSpace(directory: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  const marginBytes = 64 * 2 ** 20;
  if (bavail * bsize >= neededBytes + marginBytes) return;
  throw new HelsError(
    'config-invalid',
    `${directory} has ${formatBytes(bavail * bsize)} free; the quantised model needs ${formatBytes(neededBytes)} and ${formatBytes(marginBytes)} to spare`,
    { field: 'TARGET' },
  );
}

/** Tokenizer, chat template and whatever else lies beside the weights. */
async function copyOthers(source: string, target: string): Promise<void> {
  const entries = await readdir(source, { withFileTypes: true });
  const wanted = entries.filter(
    (entry) =>
      (entry.isFile() || entry.isSymbolicLink()) &&
      /\.(json|jinja|txt|model|md)$|^LICENSE/.test(entry.name) &&
      !/^config\.json$|\.index\.json$/.test(entry.name),
  );
  for (const { name } of wanted) {
    await copyFile(join(source, name), join(target, name), constants.COPYFILE_EXCL);
  }
}

/** Length, then JSON padded to whole 8 bytes. */
function headerOf(tensors: readonly TargetTensor[]): Buffer {
  let offset = 0;
  const entries = tensors.map(({ name, dtype, shape, sizeBytes }) => {
    const begin = offset;
    offset += sizeBytes;
    return [name, { dtype, shape, data_offsets: [begin, offset] }] as const;
  });
  const text = JSON.stringify({ __metadata__: { format: 'pt' }, ...Object.fromEntries(entries) });
  const json = Buffer.from(text);
  const padded = Buffer.alloc(Math.ceil(json.length / 8) * 8, ' ');
  json.copy(padded);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  return Buffer.concat([length, padded]);
}

async function writeTensors(
  file: FileHandle,
  quantizer: Quantizer,
  tensors: readonly TargetTensor[],
  onProgress: QuantizeOptions['onProgress'],
): Promise<void> {
  const allBytes = tensors.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  let writtenBytes = 0;
  for (const tensor of tensors) {
    for await (const bytes of bytesOf(quantizer, tensor)) {
      await file.writeFile(bytes);
      writtenBytes += bytes.length;
      onProgress(tensor.name, allBytes === 0 ? 1 : writtenBytes / allBytes);
    }
  }
}

/** A tensor's bytes, a part at a time. */
async function* bytesOf(quantizer: Quantizer, tensor: TargetTensor): AsyncGenerator<Uint8Array> {
  if (tensor.kind === 'copy') {
    yield await quantizer.copy(tensor.source);
    return;
  }
  const shape = tensor.sourceShape;
  const partRows = Math.max(1, Math.floor(partElements / Math.max(1, shape[1])));
  for (let begin = 0; begin < shape[0]; begin += partRows) {
    const rows = { begin, end: Math.min(shape[0], begin + partRows) };
    const bits = tensor.kind === 'bf16' ? 0 : tensor.bits;
    const part = await quantizer.quantize({
      tensor: tensor.source,
      shape,
      rows,
      quantization: bits === 0 ? 'none' : bits === 8 ? 'int8' : 'int4',
      granule: tensor.kind === 'bf16' ? 1 : tensor.granule,
    });
    yield tensor.kind === 'scales' ? part.scales : part.values;
  }
}
