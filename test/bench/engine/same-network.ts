/** Proof that both engines run the same network: greedy tokens of the bundled model, which is trained, so that no two tokens tie. */
import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bundledModel } from '../../support/daemons.ts';
import { atLeast, type Goal } from '../benchmark.ts';
import { prompt } from '../load.ts';
import { startHels, startPeer } from './contenders.ts';
import { writeLlamaGguf } from './llama-gguf.ts';

const prompts = 4;
const promptTokens = 24;
const greedyTokens = 24;

/** The share of greedy tokens, up to an answer's first difference, that are equal. */
export async function sameNetwork(installed: string): Promise<Goal> {
  const file = join(tmpdir(), `hels-bench-tiny-${process.pid}.gguf`);
  await writeLlamaGguf(bundledModel, file);
  const stop: (() => Promise<void>)[] = [];
  try {
    const hels = await startHels({ directory: bundledModel, threads: 1, numerics: 'exact' });
    stop.push(() => hels.contender.stop());
    const peer = await startPeer(installed, file);
    stop.push(() => peer.contender.stop());
    await peer.contender.call('open', { sequences: 1, contextTokens: 256, threads: 1 });
    let equal = 0;
    for (let seed = 0; seed < prompts; seed += 1) {
      const question = { tokens: prompt(promptTokens, seed), count: greedyTokens };
      const ours = await hels.contender.call<number[]>('greedy', question);
      const theirs = await peer.contender.call<number[]>('greedy', question);
      const difference = ours.findIndex((token, index) => token !== theirs[index]);
      equal += difference < 0 ? greedyTokens : difference;
    }
    const share = equal / (prompts * greedyTokens);
    return atLeast('share of greedy tokens of the bundled model that are equal', share, 0.9);
  } finally {
    await Promise.all(stop.map((end) => end()));
    rmSync(file, { force: true });
  }
}
