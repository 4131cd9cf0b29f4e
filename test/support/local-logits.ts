/** Logits of a model directory over a split in this process, without reference logits. */
import { createHash } from 'node:crypto';
import { readModelFiles } from '../../proto/base/model-files.ts';
import { storedWeightType } from '../../proto/base/stored-weight-type.ts';
import { modelSpecFromConfig } from '../../proto/domain/model-config.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { ShardSpec } from '../../worker/binding/engine-types.ts';
import { LocalRanks } from '../../worker/tools/local-ranks.ts';
import { parseRanks, splitModel } from '../../worker/tools/split.ts';

export interface SplitModel {
  directory: string;
  model: ModelSpec;
  shards: ShardSpec[];
}

/** `ranks` as `--ranks` takes them; null: one rank. */
export async function splitDirectory(directory: string, ranks: string | null): Promise<SplitModel> {
  const files = await readModelFiles(directory, { tokenizer: 'optional' });
  const tensorType = await storedWeightType(files);
  const model = modelSpecFromConfig(files.config, { tensorType });
  const shares = parseRanks(ranks ?? `${model.headGroups}/1`);
  return { directory, model, shards: splitModel(model, shares) };
}

/** One row per token, whole vocabulary, fed in chunks of at most `chunk` tokens. */
export async function logitsOf(
  split: SplitModel,
  tokens: readonly number[],
  chunk = tokens.length,
): Promise<Float32Array[]> {
  const ranks = await LocalRanks.start({
    ...split,
    positionsMax: tokens.length,
    chunk,
    corruption: null,
  });
  try {
    return await ranks.logits(tokens, 0);
  } finally {
    await ranks.close();
  }
}

export function hashOfRows(rows: readonly Float32Array[]): string {
  const hash = createHash('sha256');
  for (const row of rows) hash.update(new Uint8Array(row.buffer, row.byteOffset, row.byteLength));
  return hash.digest('hex');
}

/** `count` token ids below `vocabRows`, the same ones for the same seed. */
export function someTokens(count: number, vocabRows: number, seed: number): number[] {
  let state = seed;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocabRows);
  });
}
