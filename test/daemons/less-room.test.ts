/** A loss after which the others do not hold the KV of the whole load: they serve with less, and nobody is sent away. */
import { expect, it } from 'vitest';
import type { HelsClient } from '../../client/sdk/index.ts';
import { collect, startTestCluster } from '../support/daemons.ts';

const workload = { sequences: 32, contextTokens: 128 };
const device = 'cpu?threads=1&memory=22MiB';
const streams = 12;

const ask = (client: HelsClient, index: number, onToken: () => void = () => undefined) => {
  const options = { maxTokens: 110, ignoreEndOfText: true };
  const stream = client.generate({ prompt: `Sentence ${index}: a head group is` }, options);
  return collect(
    (async function* () {
      for await (const event of stream) {
        onToken();
        yield event;
      }
    })(),
  );
};

it('goes on with fewer sequences at once, with the same tokens', async () => {
  const two = await startTestCluster([device, device]);
  try {
    await expect(two.deploy({ workload })).rejects.toThrow(/no split fits: /);
  } finally {
    await two.stop();
  }
  const test = await startTestCluster([device, device, device]);
  try {
    const { client } = test.cluster;
    const { plan } = await test.deploy({ workload });
    const tokensOf = (one: typeof plan) => (one?.kvBlocks ?? 0) * (one?.kvBlockTokens ?? 0);
    const promised = workload.sequences * workload.contextTokens;
    expect(plan?.ranks).toHaveLength(3);
    expect(tokensOf(plan)).toBeGreaterThanOrEqual(promised);
    const alone: number[][] = [];
    for (let index = 0; index < streams; index += 1)
      alone.push((await ask(client, index)).tokenIds);
    let events = 0;
    const running = Array.from({ length: streams }, (_, index) =>
      ask(client, index, () => {
        events += 1;
      }),
    );
    while (events < 4 * streams) await new Promise((resolve) => setTimeout(resolve, 10));
    process.kill(test.cluster.workers[2]?.processId ?? 0, 'SIGKILL');
    const answers = await Promise.all(running);
    expect(answers.map(({ tokenIds }) => tokenIds)).toEqual(alone);
    const after = await client.plan();
    expect(after.plan?.ranks).toHaveLength(2);
    expect(tokensOf(after.plan)).toBeLessThan(promised);
  } finally {
    await test.stop();
  }
}, 120_000);
