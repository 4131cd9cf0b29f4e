/** Many streams at once: our OpenAI endpoint with daemons and HTTP, beside node-llama-cpp's own batching without any. */
import { basename } from 'node:path';
import { atLeast, type Goal, shown } from '../benchmark.ts';
import { withCluster } from '../cluster.ts';
import { runLoad } from '../load.ts';
import { type ModelShape, shape1100M } from '../random-model.ts';
import { startPeer } from './contenders.ts';
import { interleave } from './interleave.ts';
import type { Row, Subject } from './rows.ts';

/** Of the large model fewer: at 17 tokens/s a round of 32 streams takes llama.cpp a minute. */
const streamCountsOf = ({ name }: ModelShape) => (name === shape1100M.name ? [8] : [8, 32]);
export const serverPromptTokens = 32;
export const serverOutputTokens = 32;
const contextTokens = 256;

export async function measureServer(
  { shape, directory, gguf, peer: installed }: Subject,
  rows: Row[],
  goals: Goal[],
  log: (line: string) => void,
): Promise<void> {
  const streamCounts = streamCountsOf(shape);
  const peer = installed === null ? null : (await startPeer(installed, gguf)).contender;
  try {
    await withCluster([{ device: 'cpu?threads=2', core: null }], null, async (cluster) => {
      const workload = {
        sequences: Math.max(...streamCounts),
        contextTokens,
        outputTokens: serverOutputTokens,
      };
      await cluster.deploy({ modelPath: directory, workersMin: 1, workload });
      let seed = 0;
      for (const streams of streamCounts) {
        const tokens = streams * serverOutputTokens;
        const load = { promptTokens: serverPromptTokens, outputTokens: serverOutputTokens };
        const ours = async () => {
          const url = cluster.cluster.httpUrl;
          const model = basename(directory);
          seed += streams;
          const options = { ...load, url, model, streams, rounds: 1, firstSeed: seed };
          return tokens / (await runLoad(options)).tokensPerSecond;
        };
        await peer?.call('open', { sequences: streams, contextTokens, threads: 2 });
        const theirs = async () =>
          tokens / ((await peer?.call<number>('serve', { streams, ...load })) ?? Number.NaN);
        const [hels = Number.NaN, llama = null] = (
          await interleave(peer === null ? [ours] : [ours, theirs])
        ).map((seconds) => tokens / seconds);
        const times = llama === null ? null : hels / llama;
        const speeds = [hels, ...(llama === null ? [] : [llama])].map(shown).join(', ');
        log(`${shape.name}: ${streams} streams: hels, llama.cpp ${speeds} tokens/s`);
        rows.push({
          model: shape.name,
          streams,
          'hels tok/s': hels,
          'llama.cpp tok/s': llama,
          'hels/peer': times,
        });
        const name = `${shape.name}: whole server, ${streams} streams: times llama.cpp`;
        if (times !== null) goals.push(atLeast(name, times, 2));
      }
    });
  } finally {
    await peer?.stop();
  }
}
