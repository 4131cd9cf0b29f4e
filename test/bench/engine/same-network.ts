/** Proof that both engines run the same network: what they say of the next token with the bundled model, which is trained. */
import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promptOf } from '../../../client/helsctl/request-load.ts';
import { bundledModel } from '../../support/daemons.ts';
import { atLeast, atMost, type Goal } from '../benchmark.ts';
import { startHels, startPeer } from './contenders.ts';
import { type WeightForm, writeLlamaGguf } from './llama-gguf.ts';

const prompts = 16;
const promptTokens = 24;

const meanOf = (values: readonly number[]) =>
  values.reduce((sum, value) => sum + value, 0) / values.length;
const centred = (values: readonly number[]) => {
  const mean = meanOf(values);
  return values.map((value) => value - mean);
};
const rootMeanSquare = (values: readonly number[]) =>
  Math.sqrt(meanOf(values.map((value) => value * value)));
const indexOfLargest = (values: readonly number[]) =>
  values.reduce((best, value, index) => (value > (values[best] ?? 0) ? index : best), 0);

/** Root mean square of the difference of the logits in units of their spread; logits are known but for a constant. */
function logitDifference(logits: readonly number[], probabilities: readonly number[]): number {
  const ours = centred(logits);
  const theirs = centred(probabilities.map(Math.log));
  return (
    rootMeanSquare(ours.map((value, index) => value - (theirs[index] ?? 0))) / rootMeanSquare(ours)
  );
}

/**
 * bf16: both engines round what they multiply to bf16, each in its own places: equal but for that. 8 bits: llama.cpp rounds inputs to 8
 * bits, too. 4 bits: the same, and each has its own rule for the scale of a group.
 */
const differenceMax = { bf16: 0.02, int8: 0.05, int4: 0.15 } as const;

export async function sameNetwork(installed: string, form: WeightForm = 'bf16'): Promise<Goal[]> {
  const file = join(tmpdir(), `hels-bench-tiny-${process.pid}.gguf`);
  await writeLlamaGguf(bundledModel, file, form);
  const stop: (() => Promise<void>)[] = [];
  try {
    const hels = await startHels({
      ...{ directory: bundledModel, threads: 1, numerics: 'exact' },
      ...(form === 'bf16' ? {} : { quantization: form }),
    });
    stop.push(() => hels.contender.stop());
    const peer = await startPeer(installed, file);
    stop.push(() => peer.contender.stop());
    await peer.contender.call('open', { sequences: 1, contextTokens: 256, threads: 1 });
    const differences: number[] = [];
    let equal = 0;
    for (let seed = 0; seed < prompts; seed += 1) {
      const question = { tokens: promptOf(promptTokens, seed) };
      const ours = await hels.contender.call<number[]>('logits', question);
      const theirs = await peer.contender.call<number[]>('probabilities', question);
      differences.push(logitDifference(ours, theirs));
      equal += indexOfLargest(ours) === indexOfLargest(theirs) ? 1 : 0;
    }
    const name = `same network as llama.cpp, ${form}`;
    return [
      atMost(
        `${name}: largest difference of logits, in their spread`,
        Math.max(...differences),
        differenceMax[form],
      ),
      atLeast(`${name}: share of equal greedy tokens`, equal / prompts, 0.9),
    ];
  } finally {
    await Promise.all(stop.map((end) => end()));
    rmSync(file, { force: true });
  }
}
