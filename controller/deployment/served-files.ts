import { basename } from 'node:path';
import { modelDigest, readModelFiles } from '../../proto/base/model-files.ts';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import { TextModel } from '../tokenizer/text-model.ts';

/** What the controller reads of a model: everything but the weights. */
export interface ServedFiles {
  modelId: string;
  directory: string;
  digest: string;
  spec: ModelSpec;
  text: TextModel;
}

/** Throws model-invalid naming the file, tensor or field that is wrong. The caller closes `text`. */
export async function readServedFiles(path: string, modelId: string): Promise<ServedFiles> {
  const files = await readModelFiles(path);
  const spec = modelSpecFromConfig(files.config);
  const digest = await modelDigest(files.directory);
  const text = await TextModel.load(files.directory);
  return {
    modelId: modelId === '' ? basename(files.directory) : modelId,
    directory: files.directory,
    digest,
    spec,
    text,
  };
}
