/** `inspect`: what a model directory holds, and everything that keeps Hels from serving it. */
import { join } from 'node:path';
import { modelDigest, readModelFiles } from '../../proto/base/model-files.ts';
import { toHelsError } from '../../proto/domain/errors.ts';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import { inspectModel, type TensorDescription } from '../binding/native.ts';

export interface InspectReport {
  directory: string;
  /** null when a check that it needs failed; `problems` says which. */
  spec: ModelSpec | null;
  digest: string | null;
  /** Of all tensors. */
  weightBytes: number;
  tensors: TensorDescription[];
  problems: InspectProblem[];
}

export interface InspectProblem {
  check: 'files' | 'tokenizer' | 'weights' | 'config' | 'digest';
  message: string;
}

/** Runs every check that still makes sense after the ones that failed. */
export async function inspectDirectory(path: string): Promise<InspectReport> {
  const problems: InspectProblem[] = [];
  const check = async <Value>(
    name: InspectProblem['check'],
    run: () => Value | Promise<Value>,
  ): Promise<Value | null> => {
    try {
      return await run();
    } catch (error) {
      problems.push({ check: name, message: toHelsError(error).message });
      return null;
    }
  };
  const files = await check('files', () => readModelFiles(path, { tokenizer: 'optional' }));
  if (files === null) {
    return { directory: path, spec: null, digest: null, weightBytes: 0, tensors: [], problems };
  }
  if (files.tokenizerFile === null) {
    const file = join(files.directory, 'tokenizer.json');
    problems.push({
      check: 'tokenizer',
      message: `${file} is missing; the model cannot be served`,
    });
  }
  const tensors = (await check('weights', () => inspectModel(files.directory))) ?? [];
  const tensorType = tensors[0]?.type ?? null;
  const spec = await check('config', () => modelSpecFromConfig(files.config, { tensorType }));
  return {
    directory: files.directory,
    spec,
    digest: await check('digest', () => modelDigest(files.directory)),
    weightBytes: tensors.reduce((sum, tensor) => sum + tensor.sizeBytes, 0),
    tensors,
    problems,
  };
}
