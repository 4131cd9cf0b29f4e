/** `inspect`: what a model directory holds, and everything that keeps Hels from serving it. */
import { join } from 'node:path';
import { modelDigest, readModelFiles } from '../../proto/base/model-files.ts';
import { storedWeightType } from '../../proto/base/stored-weight-type.ts';
import { toHelsError } from '../../proto/domain/errors.ts';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import { inspectModel, loadEngine, type TensorDescription } from '../binding/native.ts';

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

interface InspectProblem {
  check: 'files' | 'tokenizer' | 'weights' | 'config' | 'tensors' | 'digest';
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
  const tensors = await check('weights', () => inspectModel(files.directory));
  const tensorType = await storedWeightType(files);
  const spec = await check('config', () => modelSpecFromConfig(files.config, { tensorType }));
  if (spec !== null && tensors !== null) {
    await check('tensors', () => checkTensors(files.directory, spec));
  }
  return {
    directory: files.directory,
    spec,
    digest: await check('digest', () => modelDigest(files.directory)),
    weightBytes: (tensors ?? []).reduce((sum, tensor) => sum + tensor.sizeBytes, 0),
    tensors: tensors ?? [],
    problems,
  };
}

/**
 * Throws model-invalid naming the first tensor that is missing or has another shape or type than the config demands. The loader itself
 * is asked, as a rank that holds nothing: it checks every tensor and reads only what all ranks hold (embedding and norms).
 */
async function checkTensors(directory: string, model: ModelSpec): Promise<void> {
  const nothing = { begin: 0, end: 0 };
  const engine = await loadEngine({
    directory,
    model,
    shard: { rank: 1, ranks: 2, headGroups: nothing, ffnColumns: nothing, vocabRows: nothing },
    options: {
      device: 'cpu',
      multiprocessors: 0,
      threads: 1,
      speed: 1,
      memoryBytes: 0,
      numerics: 'exact',
      kvBlockTokens: 16,
      kvBlocks: 1,
      stepTokensMax: 1,
      sequencesMax: 1,
      corruption: null,
    },
  });
  await engine.close();
}
