/** A deployment for more sequences and longer chunks than those that everyone has: real daemons really run them. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { bundledModel, collect, startTestCluster, type TestCluster } from '../support/daemons.ts';
import { eventually } from '../support/deadline.ts';
import { helsctl } from '../support/helsctl-process.ts';

const sequences = 96;
const tokens = 120;
let test: TestCluster;

/** The answer goes on long enough for all to run at once. */
const ask = (index: number) =>
  collect(
    test.cluster.client.generate(
      { prompt: `Question ${index % 8} about Hels:` },
      { maxTokens: tokens, ignoreEndOfText: true, temperature: 1, seed: index % 8 },
    ),
  );

beforeAll(async () => {
  test = await startTestCluster(['cpu?threads=1', 'cpu?threads=1']);
});
afterAll(async () => {
  await test?.stop();
});

it('runs 96 sequences at once, with the answers that each has alone, and keeps them through a re-plan', async () => {
  const address = ['--address', test.cluster.grpcAddress];
  const load = ['--sequences', `${sequences}`, '--context', '160', '--prefill-chunk', '1024'];
  const split = ['--workers', '2', '--ranks', 'worker-0=4/1,worker-1=4/1'];
  const deploy = ['deploy', '--model', bundledModel, ...split];
  const deployed = await helsctl(...deploy, ...load, ...address, '--json');
  expect(deployed.exitCode, deployed.stderr).toBe(0);
  const { plan } = JSON.parse(deployed.stdout);
  expect(plan).toMatchObject({ sequencesMax: sequences, stepTokensMax: 1024 });

  const alone = [];
  for (let index = 0; index < 8; index += 1) alone.push((await ask(index)).tokenIds);

  const { client } = test.cluster;
  const answers = Array.from({ length: sequences + 8 }, (_, index) => ask(index));
  await eventually(30_000, 'all slots are taken', async () => {
    const { requestsRunning, sequencesMax } = await client.status();
    return requestsRunning === sequences && sequencesMax === sequences;
  });
  // Fewer are asked for; whoever runs goes on.
  const share = (workerId: string, headGroups: number) => ({ workerId, headGroups, ffnWeight: 1 });
  const ranks = [share('worker-0', 5), share('worker-1', 3)];
  for await (const event of client.replan({ ranks, workload: { sequences: 4 } })) {
    if (event.type !== 'done') continue;
    expect(event.replan?.sequences).toBeGreaterThan(64);
    expect(event.report.plan).toMatchObject({ sequencesMax: sequences, stepTokensMax: 1024 });
  }
  const { requestsRunning } = await client.status();
  expect(requestsRunning).toBeGreaterThan(64);
  for (const [index, answer] of (await Promise.all(answers)).entries()) {
    expect(answer.tokenIds).toEqual(alone[index % 8]);
  }
}, 120_000);
