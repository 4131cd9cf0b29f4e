import { basename, resolve } from 'node:path';
import {
  type ModelFiles,
  modelDigest,
  readModelFiles,
  weightsDigest,
} from '../../proto/base/model-files.ts';
import { storedWeightType } from '../../proto/base/stored-weight-type.ts';
import { requireWholeWeights } from '../../proto/base/whole-weights.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import { quantizationOptions } from '../../proto/domain/quantization.ts';
import { TextModel } from '../tokenizer/text-model.ts';

/** What the controller reads of a model: everything but the weights. */
export interface ServedFiles {
  modelId: string;
  directory: string;
  digest: string;
  /** Of what the model computes with alone: a chat template changes the prompts to come, not the answers under way. */
  weightsDigest: string;
  spec: ModelSpec;
  text: TextModel;
}

/** Under which a request's model is served: the name given, or the directory's, with `-` for what no name may have. */
export function modelIdOf({ modelPath, modelId }: { modelPath: string; modelId: string }): string {
  if (modelId !== '') return modelId;
  return basename(resolve(modelPath))
    .replace(/[^\w.:-]/gu, '-')
    .slice(0, 128);
}

/** What a deployment asks of the weights; absent or empty: as the files are, exact numerics. */
interface WeightsRequest {
  quantization?: string;
  numerics?: string;
}

/** The model as it is served: in the type of its tensors. Throws config-invalid for weights that cannot be asked for. */
export async function servedSpec(
  files: ModelFiles,
  { quantization = '', numerics = '' }: WeightsRequest,
): Promise<ModelSpec> {
  const wanted = quantization === '' ? 'auto' : quantization;
  const option = quantizationOptions.find((candidate) => candidate === wanted);
  if (option === undefined) {
    const allowed = quantizationOptions.join(', ');
    throw new HelsError('config-invalid', `quantization: '${wanted}' is not one of ${allowed}`, {
      field: 'quantization',
    });
  }
  const spec = modelSpecFromConfig(files.config, {
    quantization: option,
    tensorType: await storedWeightType(files),
  });
  if (numerics === 'fast' && spec.quantization !== 'none') {
    throw new HelsError(
      'config-invalid',
      `numerics: 'fast' with ${spec.quantization} weights; quantised weights have exact numerics only`,
      { field: 'numerics' },
    );
  }
  return spec;
}

/** Throws model-invalid naming the file, tensor or field that is wrong. The caller closes `text`. */
export async function readServedFiles(
  path: string,
  modelId: string,
  weights: WeightsRequest = {},
): Promise<ServedFiles> {
  const files = await readModelFiles(path);
  const spec = await servedSpec(files, weights);
  await requireWholeWeights(files, spec);
  const digest = await modelDigest(files.directory);
  const weightsOnly = await weightsDigest(files.directory);
  return {
    modelId: modelIdOf({ modelPath: files.directory, modelId }),
    directory: files.directory,
    digest,
    weightsDigest: weightsOnly,
    spec,
    text: await TextModel.load(files.directory),
  };
}
