/** A controller that stands still for longer than the lease of its workers: they are none the worse for it. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { collect, startTestCluster, type TestCluster } from '../support/daemons.ts';

const stallMs = 8_000;
const messages = [{ role: 'user' as const, content: 'What is Hels?' }];

let running: TestCluster;
beforeAll(async () => {
  running = await startTestCluster(['cpu?speed=0.2', 'cpu?speed=0.2']);
  await running.deploy({ policy: 'equal' });
}, 60_000);
afterAll(async () => {
  await running?.stop();
});

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

it('serves on in the same epoch, and answers as undisturbed', { timeout: 120_000 }, async () => {
  const { client, processIds } = running.cluster;
  const controller = processIds.get('controller') ?? 0;
  const options = { maxTokens: 150, ignoreEndOfText: true };
  const ask = (seed: number) => client.generate({ messages }, { ...options, seed, temperature: 1 });
  const seeds = [1, 2, 3];
  const before = await client.status();
  let tokens = 0;
  const answers = seeds.map(async (seed) => {
    async function* counted() {
      for await (const event of ask(seed)) {
        if (event.type === 'delta') tokens += event.tokenIds.length;
        yield event;
      }
    }
    return await collect(counted());
  });
  await expect.poll(() => tokens, { timeout: 30_000 }).toBeGreaterThan(30);
  process.kill(controller, 'SIGSTOP');
  await sleep(stallMs).finally(() => process.kill(controller, 'SIGCONT'));
  const disturbed = await Promise.all(answers);

  const after = await client.status();
  expect([after.epoch, after.state]).toEqual([before.epoch, 'ready']);
  expect(after.workers.map(({ workerId }) => workerId).sort()).toEqual(['worker-0', 'worker-1']);
  for (const [index, seed] of seeds.entries()) {
    const undisturbed = await collect(ask(seed));
    expect(undisturbed.tokenIds).toHaveLength(150);
    expect(disturbed[index]?.tokenIds).toEqual(undisturbed.tokenIds);
  }
});
