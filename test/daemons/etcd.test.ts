import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { within } from '../support/deadline.ts';
import { EtcdServer } from '../support/etcd-server.ts';
import {
  answerOf,
  comesBack,
  controllerRestartContract,
  Daemons,
  deploy,
} from './controller-restart.contract.ts';

describe('state in etcd', () => {
  let etcd: EtcdServer;
  beforeAll(async () => {
    etcd = await EtcdServer.start();
  });
  afterAll(async () => {
    await etcd?.stop();
  });

  controllerRestartContract(() => ['--etcd', etcd.url]);

  describe('several controllers', () => {
    let daemons: Daemons;
    beforeEach(() => {
      daemons = new Daemons();
    });
    afterEach(async () => {
      await daemons.stop();
    });

    it('a standby waits, and takes the deployment over when the leader stops', {
      timeout: 240_000,
    }, async () => {
      const store = ['--etcd', etcd.url];
      const leader = await daemons.controller(store);
      await daemons.worker(leader.grpc);
      await deploy(leader.client);
      const before = await answerOf(leader.client);
      const { term } = await leader.client.status();
      // On the leader's port, which is taken as long as that one lives: listening too early would end it.
      const standby = daemons.controller(store, leader.grpc);
      await expect(within(3_000, 'listening', standby)).rejects.toThrow('not within');
      await leader.stop();
      const next = await standby;
      expect((await next.client.status()).term).toBeGreaterThan(term);
      expect(await comesBack(daemons, next)).toEqual(before);
    });
  });

  it('a leader that etcd no longer hears stops, and says why', async () => {
    const own = await EtcdServer.start();
    const daemons = new Daemons();
    try {
      const leader = await daemons.controller(['--etcd', own.url]);
      await own.kill();
      const code = await within(15_000, 'the end of the leader', leader.process.exited);
      expect(code).toBe(1);
      expect(leader.process.logTail()).toContain('leadership lost');
    } finally {
      await daemons.stop();
      await own.stop();
    }
  });

  it('a controller that finds no etcd ends with exit code 5, naming it', async () => {
    const daemons = new Daemons();
    try {
      const lonely = daemons.start('controller/main', ['--etcd', 'http://127.0.0.1:1']);
      expect(await within(20_000, 'its end', lonely.exited)).toBe(5);
      expect(lonely.logTail()).toContain('etcd does not answer');
    } finally {
      await daemons.stop();
    }
  });
});
