/** The files of a Hugging Face model directory: which are there, one digest over all that change an answer, and one over the weights. */
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { HelsError } from '../domain/errors.ts';
import { sha256Of } from './file-hash.ts';

export interface ModelFiles {
  /** Absolute. */
  directory: string;
  /** config.json, parsed. */
  config: unknown;
  /** Names of the safetensors files, in order; the index file not included. */
  weightFiles: string[];
  /** null: the model is a single model.safetensors. */
  indexFile: string | null;
  /** By the index, the file of each tensor: what else the files hold is not of the model. null: there is no index. */
  fileOfTensor: ReadonlyMap<string, string> | null;
  /** null when the directory has none (only allowed with `tokenizer: 'optional'`). */
  tokenizerFile: string | null;
  tokenizerConfigFile: string | null;
}

export interface ModelFilesOptions {
  /** `optional` for work on token ids (golden tests); a served model needs its tokenizer. */
  tokenizer?: 'required' | 'optional';
}

const configName = 'config.json';
const singleName = 'model.safetensors';
const indexName = 'model.safetensors.index.json';
const tokenizerName = 'tokenizer.json';
const tokenizerConfigName = 'tokenizer_config.json';
/** Further files that change an answer: the prompt of a chat, and after which tokens a text ends. */
const answerNames = ['chat_template.jinja', 'generation_config.json'];

/** JSON files of a model are small; a huge one is a mistake that must not fill the memory. */
const jsonBytesMax = 256 * 2 ** 20;

/** Throws model-invalid naming the directory or file that is missing or wrong. Weights are checked by whoever opens them. */
export async function readModelFiles(
  path: string,
  options: ModelFilesOptions = {},
): Promise<ModelFiles> {
  const directory = resolve(path);
  const info = await stat(directory).catch(() => null);
  if (!info?.isDirectory()) {
    throw invalid(directory, 'is not a directory; give the folder that holds config.json');
  }
  const config = await readJson(join(directory, configName));
  const weights = await findWeights(directory);
  const tokenizerFile = await nameIfThere(directory, tokenizerName);
  if (tokenizerFile === null && options.tokenizer !== 'optional') {
    throw invalid(
      join(directory, tokenizerName),
      'is missing; a model is served with its tokenizer in the Hugging Face tokenizers format',
    );
  }
  const tokenizerConfigFile = await nameIfThere(directory, tokenizerConfigName);
  return { directory, config, ...weights, tokenizerFile, tokenizerConfigFile };
}

/**
 * sha256 (hex) over name, size and sha256 of config.json, the weights with their index, tokenizer.json, tokenizer_config.json,
 * chat_template.jinja and generation_config.json, as far as they are there, in name order: the same on every host that has the same
 * files. A file's hash is kept while its size, times and inode stay the same.
 */
export async function modelDigest(path: string): Promise<string> {
  const files = await readModelFiles(path, { tokenizer: 'optional' });
  const further = answerNames.map((name) => nameIfThere(files.directory, name));
  const { tokenizerFile, tokenizerConfigFile } = files;
  const answers = [tokenizerFile, tokenizerConfigFile, ...(await Promise.all(further))];
  return await digestOf(files.directory, [...weightNames(files), ...answers]);
}

/** The same over config.json and the weights with their index: what the tokens after given ones depend on. */
export async function weightsDigest(path: string): Promise<string> {
  const files = await readModelFiles(path, { tokenizer: 'optional' });
  return await digestOf(files.directory, weightNames(files));
}

const weightNames = ({ weightFiles, indexFile }: ModelFiles) => [
  configName,
  ...weightFiles,
  indexFile,
];

async function digestOf(directory: string, names: readonly (string | null)[]): Promise<string> {
  const digest = createHash('sha256');
  for (const name of names.filter((one) => one !== null).sort()) {
    const file = await hashFile(join(directory, name));
    digest.update(`${name}\0${file.size}\0${file.sha256}\n`);
  }
  return digest.digest('hex');
}

interface FileHash {
  identity: string;
  size: bigint;
  sha256: string;
}

const hashes = new Map<string, FileHash>();
const hashesMax = 4096;

async function identify(file: string): Promise<{ identity: string; size: bigint }> {
  const info = await stat(file, { bigint: true }).catch(() => {
    throw invalid(file, 'is missing');
  });
  const { size, mtimeNs, ctimeNs, ino, dev } = info;
  // Whoever sets the time of a change back, as copies and archives do, does not set back when that was done.
  return { identity: [size, mtimeNs, ctimeNs, ino, dev].join(':'), size };
}

async function hashFile(file: string): Promise<FileHash> {
  const before = await identify(file);
  const known = hashes.get(file);
  if (known?.identity === before.identity) return known;
  const sha256 = await sha256Of(file, before.size);
  const after = await identify(file);
  if (after.identity !== before.identity) {
    throw invalid(file, 'changed while it was read; wait until the model is completely written');
  }
  const result = { ...after, sha256 };
  if (hashes.size >= hashesMax) hashes.clear();
  hashes.set(file, result);
  return result;
}

async function findWeights(
  directory: string,
): Promise<Pick<ModelFiles, 'weightFiles' | 'indexFile' | 'fileOfTensor'>> {
  if ((await nameIfThere(directory, singleName)) !== null) {
    return { weightFiles: [singleName], indexFile: null, fileOfTensor: null };
  }
  if ((await nameIfThere(directory, indexName)) === null) {
    throw invalid(
      join(directory, singleName),
      `is missing, and so is ${indexName}; Hels reads safetensors weights only`,
    );
  }
  const fileOfTensor = filesByTensor(await readJson(join(directory, indexName)), directory);
  const weightFiles = [...new Set(fileOfTensor.values())].sort();
  for (const name of weightFiles) {
    if ((await nameIfThere(directory, name)) === null) {
      throw invalid(join(directory, name), `is missing, but ${indexName} names it`);
    }
  }
  return { weightFiles, indexFile: indexName, fileOfTensor };
}

function filesByTensor(index: unknown, directory: string): Map<string, string> {
  const map = (index as { weight_map?: unknown } | null)?.weight_map;
  const files = typeof map === 'object' && map !== null ? Object.entries(map) : [];
  const isPlain = ([, name]: [string, unknown]) =>
    typeof name === 'string' && name === basename(name);
  if (files.length === 0 || !files.every(isPlain)) {
    throw invalid(
      join(directory, indexName),
      'has no usable weight_map; it must map each tensor to the name of a file in the same directory',
    );
  }
  return new Map(files);
}

async function nameIfThere(directory: string, name: string): Promise<string | null> {
  const info = await stat(join(directory, name)).catch(() => null);
  return info?.isFile() ? name : null;
}

async function readJson(file: string): Promise<unknown> {
  const info = await stat(file).catch(() => null);
  if (!info?.isFile()) throw invalid(file, 'is missing');
  if (info.size > jsonBytesMax) {
    throw invalid(
      file,
      `has ${info.size} bytes, more than the ${jsonBytesMax} a JSON file may have`,
    );
  }
  const text = await readFile(file, 'utf8');
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw invalid(file, `is not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function invalid(file: string, problem: string): HelsError {
  return new HelsError('model-invalid', `${file} ${problem}`, { field: file });
}
