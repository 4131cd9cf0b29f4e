/** What an epoch takes of the system it gives back: sockets, descriptors, threads and shared memory of every daemon. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { bundledModelId, collect, startTestCluster, type TestCluster } from '../support/daemons.ts';
import { eventually } from '../support/deadline.ts';
import { type ProcessResources, resourcesOf } from '../support/process-resources.ts';

/** The first ones open what stays open: the controller's channels, the engine's threads of the runtime. */
const warmUpCycles = 2;
const cycles = 5;
const ranks = [4, 2, 2].map((headGroups, index) => ({
  workerId: `worker-${index}`,
  headGroups,
  ffnWeight: 1,
}));

let test: TestCluster;

beforeAll(async () => {
  test = await startTestCluster(ranks.map(() => 'cpu?threads=1'));
});

afterAll(async () => {
  await test?.stop();
});

async function deployAndUndeploy(): Promise<number[]> {
  const { client } = test.cluster;
  await test.deploy({ ranks });
  const serving = resources();
  const { tokenIds } = await collect(client.generate({ prompt: 'Hels' }, { maxTokens: 8 }));
  // The test sees what it means to see: ranks on one host sum through shared memory.
  for (const name of ['worker-0', 'worker-1', 'worker-2'])
    expect(serving[name]?.sharedMappings).toBeGreaterThan(0);
  await client.undeploy(bundledModelId);
  return tokenIds;
}

type Resources = Record<string, ProcessResources>;

const resources = (): Resources =>
  Object.fromEntries(
    [...test.cluster.processIds].map(([name, processId]) => [name, resourcesOf(processId)]),
  );

/** `daemon: kind before -> now` of everything that there is more of. */
function gained(before: Resources, now: Resources): string[] {
  const kinds = ['sockets', 'otherDescriptors', 'threads', 'sharedMappings'] as const;
  return Object.entries(now).flatMap(([name, held]) =>
    kinds
      .filter((kind) => held[kind] > (before[name]?.[kind] ?? 0))
      .map((kind) => `${name}: ${kind} ${before[name]?.[kind]} -> ${held[kind]}`),
  );
}

it('five deployments leave nothing behind', async () => {
  const answers: string[] = [];
  for (let cycle = 0; cycle < warmUpCycles; cycle += 1)
    answers.push((await deployAndUndeploy()).join());
  const before = await eventually(10_000, 'the shared memory is given back', () => {
    const now = resources();
    return Object.values(now).every(({ sharedMappings }) => sharedMappings === 0) && now;
  });
  for (let cycle = warmUpCycles; cycle < cycles; cycle += 1)
    answers.push((await deployAndUndeploy()).join());
  expect(new Set(answers).size).toBe(1);
  // Sockets close a moment after the epoch has ended: of the last one, and of the one before the first look.
  await expect.poll(() => gained(before, resources()), { timeout: 10_000 }).toEqual([]);
}, 120_000);
