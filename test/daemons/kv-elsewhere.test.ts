/** KV that is not where its heads are: parked in host memory while a sequence waits, or on another worker. The text must not know. */
import { expect, it } from 'vitest';
import type { HelsClient, ReplanEvent, Status } from '../../client/sdk/index.ts';
import { collect, idle, startTestCluster, type TestCluster } from '../support/daemons.ts';
import { eventually } from '../support/deadline.ts';

const streams = 32;
/** What the plan must hold: less than all streams together need. */
const workload = { sequences: 4, contextTokens: 128 };
const options = { maxTokens: 100, ignoreEndOfText: true };

/** Six of the eight head groups on the first worker: its room is the group's. */
const ranks = [
  { workerId: 'worker-0', headGroups: 6, ffnWeight: 1 },
  { workerId: 'worker-1', headGroups: 2, ffnWeight: 1 },
];

const ask = (client: HelsClient, index: number) =>
  collect(client.generate({ prompt: `Sentence ${index}: a head group is` }, options));

/** Many at once, which the pool cannot hold, against a few of them alone. */
async function expectSameText({ cluster }: TestCluster): Promise<void> {
  const together = await Promise.all(
    Array.from({ length: streams }, (_, index) => ask(cluster.client, index)),
  );
  for (const index of [0, 7, 15, 22, 30, 31]) {
    const alone = await ask(cluster.client, index);
    expect(together[index]?.tokenIds).toEqual(alone.tokenIds);
    expect(alone.tokenIds).toHaveLength(options.maxTokens);
  }
  await idle(cluster.client);
}

/** The value of a metric, summed over its labels that match. */
async function metricOf({ cluster }: TestCluster, pattern: RegExp): Promise<number> {
  const text = await (await fetch(`${cluster.httpUrl}/metrics`)).text();
  return text
    .split('\n')
    .filter((line) => pattern.test(line))
    .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

it('parks sequences in host memory and brings them back, with the same text', async () => {
  const device = 'cpu?threads=1&memory=22MiB&host=4MiB';
  const test = await startTestCluster([device, device]);
  try {
    const { plan } = await test.deploy({ ranks, workload, prefixCache: false });
    expect(plan?.kvParkedBlocks).toBeGreaterThan(50);
    // Less than half of what the streams need at their end.
    expect((plan?.kvBlocks ?? 0) * (plan?.kvBlockTokens ?? 0)).toBeLessThan(streams * 50);
    await expectSameText(test);
    expect(await metricOf(test, /^hels_kv_restored_tokens_total.*reload/)).toBeGreaterThan(0);
    expect(await metricOf(test, /^hels_kv_restore_seconds_total.*reload/)).toBeGreaterThan(0);
    const status = await test.cluster.client.status();
    expect(status).toMatchObject({
      kvParkedBlocksUsed: 0,
      kvParkedBlocksTotal: plan?.kvParkedBlocks,
    });
  } finally {
    await test.stop();
  }
}, 120_000);

it('serves a load whose KV does not fit all at once, where host memory holds the rest, with the same text', async () => {
  const all = { sequences: streams, contextTokens: 128 };
  const [little, enough] = ['cpu?threads=1&memory=20MiB', 'cpu?threads=1&memory=20MiB&host=8MiB'];
  const without = await startTestCluster([little, little]);
  try {
    await expect(without.deploy({ workload: all })).rejects.toThrow(/no split fits: kv: /);
  } finally {
    await without.stop();
  }
  const test = await startTestCluster([enough, enough]);
  try {
    const { plan } = await test.deploy({ workload: all, prefixCache: false });
    const { kvBlocks = 0, kvParkedBlocks = 0, kvBlockTokens = 0 } = plan ?? {};
    const needed = all.sequences * all.contextTokens;
    expect(kvBlocks * kvBlockTokens).toBeLessThan(needed);
    expect((kvBlocks + kvParkedBlocks) * kvBlockTokens).toBeGreaterThanOrEqual(needed);
    await expectSameText(test);
    expect(await metricOf(test, /^hels_kv_restored_tokens_total.*reload/)).toBeGreaterThan(0);
  } finally {
    await test.stop();
  }
}, 180_000);

type Replan = Extract<ReplanEvent, { type: 'done' }>['replan'];

/** Five groups instead of six on the first worker, and back, under load, each time when much lies elsewhere. */
async function replanTwice(
  { cluster }: TestCluster,
  kvBlockTokens: number,
  blocksElsewhere: (status: Status) => number,
): Promise<void> {
  const { client } = cluster;
  const asked = Array.from({ length: streams }, (_, index) => index);
  const alone: (readonly number[])[] = [];
  for (const index of asked) alone.push((await ask(client, index)).tokenIds);
  const done: { replan: Replan; heldTokens: number }[] = [];
  const together = asked.map(async (index) => {
    do expect((await ask(client, index)).tokenIds).toEqual(alone[index]);
    while (done.length < 2);
  });
  for (const headGroups of [5, 6]) {
    const heldTokens = await eventually(20_000, 'much lies elsewhere', async () => {
      const status = await client.status();
      const blocks = status.kvBlocksUsed + status.kvParkedBlocksUsed;
      return blocksElsewhere(status) > 0 && blocks * kvBlockTokens;
    });
    const split = ranks.map((rank, index) => ({
      ...rank,
      headGroups: index === 0 ? headGroups : 8 - headGroups,
    }));
    for await (const event of client.replan({ ranks: split })) {
      if (event.type === 'done') done.push({ replan: event.replan, heldTokens });
    }
  }
  await Promise.all(together);
  await idle(client);
  // The second plan has less room: what finds none is computed again, and little else.
  const [first, second] = done;
  expect(first?.replan).toMatchObject({ kv: 'migrated', replayedTokens: 0 });
  expect(first?.replan?.kvBytesMoved).toBeGreaterThan(0);
  expect(second?.replan?.kv).toBe('migrated');
  expect(second?.replan?.replayedTokens).toBeLessThan((second?.heldTokens ?? 0) / 2);
}

it('takes over what is parked when the plan changes, with the same text', async () => {
  const device = 'cpu?threads=1&memory=22MiB&host=4MiB';
  const test = await startTestCluster([device, device]);
  try {
    await test.deploy({ ranks, workload, prefixCache: false });
    await replanTwice(test, 16, ({ kvParkedBlocksUsed }) => kvParkedBlocksUsed - 20);
  } finally {
    await test.stop();
  }
}, 120_000);

it('takes over what is lent when the plan changes, with the same text', async () => {
  const test = await startTestCluster(['cpu?threads=1&memory=23MiB', 'cpu?threads=1&memory=40MiB']);
  try {
    const lending = { ...workload, allowRemoteKv: true };
    const { plan } = await test.deploy({ ranks, workload: lending, prefixCache: false });
    const room = plan?.ranks[0]?.kvDeviceBlocks ?? 0;
    await replanTwice(test, 64, ({ kvBlocksUsed }) => kvBlocksUsed - room - 3);
  } finally {
    await test.stop();
  }
}, 120_000);

it('drops what has no parked block and computes only that again, with the same text', async () => {
  const test = await startTestCluster(['cpu?threads=1&memory=22MiB', 'cpu?threads=1&memory=22MiB']);
  try {
    const { plan } = await test.deploy({ ranks, workload, prefixCache: false });
    expect(plan?.kvParkedBlocks).toBe(0);
    await expectSameText(test);
    const again = await metricOf(test, /^hels_tokens_recomputed_total/);
    expect(again).toBeGreaterThan(0);
    const { recomputeTax } = await test.cluster.client.status();
    expect(recomputeTax).toBeGreaterThan(0);
    expect(recomputeTax).toBeLessThan(0.5);
  } finally {
    await test.stop();
  }
}, 120_000);

it('does what others do instead when it is told to, with the same text', async () => {
  const device = 'cpu?threads=1&memory=22MiB&host=4MiB';
  const test = await startTestCluster([device, device]);
  try {
    await expect(test.deploy({ kvPolicy: 'swap' as never })).rejects.toThrow(
      /kv_policy: 'swap' is not one of evict, replay, reserve, slots/,
    );
    // The other policies, too: npm run bench -- residency-schedules.
    const { plan } = await test.deploy({ ranks, workload, prefixCache: false, kvPolicy: 'replay' });
    expect(plan?.kvParkedBlocks).toBe(0);
    await expectSameText(test);
    expect(await metricOf(test, /^hels_sequences_preempted_total/)).toBeGreaterThan(0);
  } finally {
    await test.stop();
  }
}, 180_000);

it('keeps KV of a short worker on another one, with the same text', async () => {
  const test = await startTestCluster(['cpu?threads=1&memory=23MiB', 'cpu?threads=1&memory=40MiB']);
  try {
    const { plan } = await test.deploy({ ranks, workload: { allowRemoteKv: true } });
    expect(plan?.kvBlockTokens).toBe(64);
    expect(plan?.kvLoans.every(({ owner, holder }) => owner === 0 && holder === 1)).toBe(true);
    const [own, other] = plan?.ranks ?? [];
    expect(own?.kvDeviceBlocks).toBeLessThan(plan?.kvBlocks ?? 0);
    expect(other?.kvShare).toBeGreaterThan(0.25);
    await expectSameText(test);
    expect(await metricOf(test, /^hels_kv_remote_seconds_total/)).toBeGreaterThan(0);
    const { kvPaths } = await test.cluster.client.status();
    const path = kvPaths.find((one) => one.path === 'remote');
    expect(path?.steps).toBeGreaterThan(50);
    expect(path?.predictedSeconds).toBeGreaterThan(0);
    expect(path?.measuredSeconds).toBeGreaterThan(0);
  } finally {
    await test.stop();
  }
}, 120_000);

it('brings KV home from another worker when there is room again, with the same text', async () => {
  const test = await startTestCluster(['cpu?threads=1&memory=23MiB', 'cpu?threads=1&memory=40MiB']);
  try {
    const { client } = test.cluster;
    await test.deploy({ ranks, workload: { allowRemoteKv: true }, prefixCache: false });
    const askLong = () =>
      collect(client.generate({ prompt: 'The longest:' }, { ...options, maxTokens: 300 }));
    const alone = await askLong();
    const recalled = /^hels_kv_restored_tokens_total.*recall/;
    expect(await metricOf(test, recalled)).toBe(0);
    const others = Array.from({ length: 16 }, (_, index) => ask(client, index));
    // It finds the room at home taken, and has 200 tokens to go when the others end.
    const long = askLong();
    await Promise.all(others);
    expect((await long).tokenIds).toEqual(alone.tokenIds);
    expect(await metricOf(test, recalled)).toBeGreaterThan(0);
    expect(await metricOf(test, /^hels_kv_restore_seconds_total.*recall/)).toBeGreaterThan(0);
    const { kvPaths } = await client.status();
    expect(kvPaths.map(({ path }) => path)).toEqual(['remote', 'recall']);
    await idle(client);
  } finally {
    await test.stop();
  }
}, 120_000);

it('goes over to KV on another worker, with blocks of another size, while requests run', async () => {
  const test = await startTestCluster(['cpu?threads=1&memory=23MiB', 'cpu?threads=1&memory=40MiB']);
  try {
    const { client } = test.cluster;
    await test.deploy({ ranks, workload });
    // Long enough for both plans: the first of them starts the thread that makes them.
    const askLong = (index: number) =>
      collect(client.generate({ prompt: `Longer ${index}:` }, { ...options, maxTokens: 300 }));
    const alone = [];
    for (const index of [0, 1, 2, 3]) alone.push((await askLong(index)).tokenIds);
    const together = Promise.all([0, 1, 2, 3].map(askLong));
    const plans = [];
    for (const split of [ranks, ranks.map((rank) => ({ ...rank, headGroups: 4 }))]) {
      const wish = { ranks: split, workload: { allowRemoteKv: true } };
      for await (const event of client.replan(wish)) {
        if (event.type === 'done') plans.push(event);
      }
    }
    expect((await together).map(({ tokenIds }) => tokenIds)).toEqual(alone);
    // The second keeps what is lent to nobody, and these few streams are there.
    const kept = { kv: 'migrated', replayedTokens: 0, sequences: 4 };
    expect(plans.map(({ replan }) => replan)).toMatchObject([{ kv: 'replayed' }, kept]);
    expect(plans[1]?.replan?.kvBytesMoved).toBeGreaterThan(0);
    expect(plans[0]?.report.plan?.kvBlockTokens).toBe(64);
    expect(plans[0]?.report.plan?.kvLoans.length).toBeGreaterThan(0);
    await idle(client);
  } finally {
    await test.stop();
  }
}, 120_000);
