import { type VerifyOptions, type VerifyReport, verifyModel } from '../../worker/tools/verify.ts';
import type { GoldenModel } from './golden-models.ts';

/** `model verify` in this process: one rank, whole prompt, the files' weight type unless `options` say otherwise. */
export function verify(
  model: Pick<GoldenModel, 'directory' | 'golden'>,
  options: Partial<Omit<VerifyOptions, 'model' | 'golden'>> = {},
): Promise<VerifyReport> {
  return verifyModel({
    model: model.directory,
    golden: model.golden,
    ranks: null,
    dtype: 'auto',
    quantization: 'auto',
    chunk: null,
    corrupt: null,
    ...options,
  });
}
