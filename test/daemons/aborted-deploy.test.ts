/** Whoever deploys may leave in the middle: nothing of that deployment stays, and the next one is as good as the first. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { bundledModel, collect, startTestCluster, type TestCluster } from '../support/daemons.ts';
import { eventually } from '../support/deadline.ts';
import { resourcesOf } from '../support/process-resources.ts';

const devices = ['cpu?threads=1&memory=64MiB', 'cpu?threads=1&memory=64MiB'];
const ranks = devices.map((_, index) => ({
  workerId: `worker-${index}`,
  headGroups: 4,
  ffnWeight: 1,
}));

let test: TestCluster;

beforeAll(async () => {
  test = await startTestCluster(devices);
});

afterAll(async () => {
  await test?.stop();
});

/** Private memory of each worker's process that can be written: weights and KV are most of it. Status knows only what the host has. */
function dataBytes(): number[] {
  return test.cluster.workers.map(({ processId }) => {
    const text = readFileSync(`/proc/${processId}/status`, 'utf8');
    return 1024 * Number(/^VmData:\s+(\d+) kB$/m.exec(text)?.[1]);
  });
}

/** Who holds a shard: each has shared memory with the other then. */
const sharers = () =>
  test.cluster.workers.filter(({ processId }) => resourcesOf(processId).sharedMappings > 0).length;

/** Leaves when the deployment says that it is in `phase`. Resolves to the phases seen. */
async function deployUntil(phase: string): Promise<string[]> {
  const abort = new AbortController();
  const phases: string[] = [];
  const request = { modelPath: bundledModel, workersMin: devices.length, ranks };
  const read = async () => {
    for await (const event of test.cluster.client.deploy(request, { signal: abort.signal })) {
      if (event.type === 'progress') phases.push(event.phase);
      if (phases.includes(phase)) abort.abort();
    }
  };
  await expect(read()).rejects.toMatchObject({ code: 'cancelled' });
  return phases;
}

it('leaves nothing on the workers, in whatever phase it is, and the next one serves', async () => {
  const { client } = test.cluster;
  const left: { phase: string; bytes: number[] }[] = [];
  let { epoch } = await client.status();
  for (const phase of ['profiling', 'loading', 'connecting', 'warming']) {
    expect(await deployUntil(phase)).toContain(phase);
    epoch += 1;
    const status = await eventually(10_000, `${phase}: the deployment has failed`, async () => {
      const now = await client.status();
      return now.state === 'failed' && now;
    });
    expect(status).toMatchObject({
      epoch,
      modelId: '',
      detail: 'the caller of deploy went away before it was ready',
    });
    await expect.poll(sharers, { timeout: 10_000 }).toBe(0);
    // Of a worker that was not connected yet only its memory tells.
    await sleep(500);
    left.push({ phase, bytes: dataBytes() });
  }
  const { plan } = await test.deploy({ ranks });
  const { finished } = await collect(client.generate({ prompt: 'Hels' }, { maxTokens: 4 }));
  expect(finished?.type).toBe('finished');
  // KV is most of what a shard takes: whoever serves has it, and nobody had it after an abort.
  const kvBytes = plan?.ranks[0]?.kvBytes ?? 0;
  expect(kvBytes).toBeGreaterThan(2 ** 25);
  const most = dataBytes().map((bytes) => bytes - 0.8 * kvBytes);
  const holding = left.filter(({ bytes }) =>
    bytes.some((held, index) => held > (most[index] ?? 0)),
  );
  expect(holding).toEqual([]);
}, 120_000);
