/** Two controllers on ports of their own, one etcd: the leader is killed while it answers, and the answers go on at the other. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type GenerateEvent, type GenerateOptions, HelsClient } from '../../client/sdk/index.ts';
import { type Answer, collect } from '../support/daemons.ts';
import { eventually, within } from '../support/deadline.ts';
import { EtcdServer } from '../support/etcd-server.ts';
import { freePort } from '../support/free-port.ts';
import { helsctl } from '../support/helsctl-process.ts';
import { Daemons, deploy } from './controller-restart.contract.ts';

/** The lease of the leader (5 s) has to end, and the model to be loaded again. */
const takeoverDeadlineMs = 30_000;
const messages = [{ role: 'user' as const, content: 'What is Hels?' }];
const ways: Record<string, GenerateOptions> = {
  greedy: {},
  sampled: { temperature: 1, topP: 0.9, seed: 7 },
  'sampled with a seed of the controller': { temperature: 1 },
};

describe('two controllers', () => {
  let etcd: EtcdServer;
  let daemons: Daemons;
  let client: HelsClient;
  beforeEach(async () => {
    etcd = await EtcdServer.start();
    daemons = new Daemons();
  });
  afterEach(async () => {
    client?.close();
    await daemons?.stop();
    await etcd?.stop();
  });

  const ask = (options: GenerateOptions) =>
    client.generate({ messages }, { ...options, maxTokens: 150, ignoreEndOfText: true });

  /** The second one leads, and says that it serves, once the first is gone. */
  const twoControllers = async () => {
    const store = ['--etcd', etcd.url];
    const addresses = [`127.0.0.1:${await freePort()}`, `127.0.0.1:${await freePort()}`];
    const leader = await daemons.controller(store, addresses[0]);
    const standby = daemons.controller(store, addresses[1]);
    return { both: addresses.join(), leader, standby };
  };

  it('a stream goes on with the same tokens when the leader is killed', {
    timeout: 120_000,
  }, async () => {
    const { both, leader, standby } = await twoControllers();
    for (const id of ['worker-0', 'worker-1']) await daemons.worker(both, id, 'cpu?speed=0.2');
    client = new HelsClient({ address: both });
    await deploy(client, { workersMin: 2, policy: 'equal' });
    // The standby has nothing to say to anybody else.
    expect(daemons.logs()).toContain(`/${leader.process.processId}"}`);
    const { term } = await client.status();

    let killedMs = 0;
    let longestMs = 0;
    let underWay = 0;
    async function* watched(events: AsyncIterable<GenerateEvent>) {
      let tokens = 0;
      let lastMs = performance.now();
      for await (const event of events) {
        yield event;
        if (event.type !== 'delta') continue;
        if (killedMs > 0) longestMs = Math.max(longestMs, performance.now() - lastMs);
        lastMs = performance.now();
        tokens += event.tokenIds.length;
        if (tokens === 10) underWay += 1;
        if (underWay < Object.keys(ways).length || killedMs > 0) continue;
        killedMs = performance.now();
        process.kill(leader.process.processId, 'SIGKILL');
      }
    }
    const seeds = new Map<string, number>();
    async function* seeded(way: string, events: AsyncIterable<GenerateEvent>) {
      for await (const event of events) {
        if (event.type === 'started') seeds.set(way, event.seed);
        yield event;
      }
    }
    const answers = Object.entries(ways).map(async ([way, options]): Promise<[string, Answer]> => {
      return [way, await collect(watched(seeded(way, ask(options))))];
    });
    const ended = within(takeoverDeadlineMs, 'the end of the answers', Promise.all(answers));
    const told = await ended.catch((error: unknown) => {
      throw new Error(`${error}\n${daemons.logs()}`);
    });
    process.stdout.write(`takeover: streams stood still for ${(longestMs / 1000).toFixed(1)} s\n`);

    const status = await client.status();
    expect(status.term).toBeGreaterThan(term);
    expect(status.workers.map(({ workerId }) => workerId).sort()).toEqual(['worker-0', 'worker-1']);
    expect((await standby).grpc).toBe(both.split(',')[1]);
    for (const [way, answer] of told) {
      const undisturbed = await collect(ask({ ...ways[way], seed: seeds.get(way) ?? 0 }));
      expect(answer.tokenIds).toHaveLength(150);
      expect([way, answer.tokenIds]).toEqual([way, undisturbed.tokenIds]);
      expect([way, answer.text]).toEqual([way, undisturbed.text]);
    }
    const { exitCode, stdout } = await helsctl('--address', both, '--json', 'status');
    expect([exitCode, JSON.parse(stdout).term]).toEqual([0, status.term]);
  });

  it('what served is served on over the workers that are left when one dies with the leader', {
    timeout: 180_000,
  }, async () => {
    const { both, leader, standby } = await twoControllers();
    const workers = [await daemons.worker(both, 'left'), await daemons.worker(both, 'lost')];
    client = new HelsClient({ address: both });
    await deploy(client, { workersMin: 2, policy: 'equal' });
    for (const { processId } of [leader.process, ...workers.slice(1)]) {
      process.kill(processId, 'SIGKILL');
    }
    await standby;
    await eventually(90_000, 'it is served again', async () => {
      return (await client.status()).state === 'ready';
    });
    const { plan } = await client.plan();
    expect(plan?.ranks.map(({ workerId }) => workerId)).toEqual(['left']);
  });
});
