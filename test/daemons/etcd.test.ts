import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Authority, type Certificate } from '../support/certificates.ts';
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

describe('state in etcd over https', () => {
  let authority: Authority;
  let stranger: Authority;
  let etcd: EtcdServer;
  let daemons: Daemons;
  beforeAll(async () => {
    authority = new Authority();
    stranger = new Authority();
    daemons = new Daemons();
    etcd = await EtcdServer.start(authority.issue('etcd'));
  });
  afterAll(async () => {
    await daemons?.stop();
    await etcd?.stop();
    authority?.remove();
    stranger?.remove();
  });

  const pair = ({ certificate, key }: Certificate) => [
    ...['--etcd-cert', certificate, '--etcd-key', key],
  ];
  const ourPair = () => pair(authority.issue('controller', { usages: 'clientAuth' }));

  it('a controller leads, and another one after it, on the same state', async () => {
    const store = ['--etcd', etcd.url, '--etcd-ca', authority.file, ...ourPair()];
    const first = await daemons.controller(store);
    const { term } = await first.client.status();
    await first.stop();
    const second = await daemons.controller(store);
    expect((await second.client.status()).term).toBeGreaterThan(term);
    await second.stop();
  }, 60_000);

  const unverified = 'no TLS connection to etcd: unable to verify the first certificate';
  const refusedByEtcd = /no TLS connection to etcd: .*alert bad certificate; see --etcd-ca/;
  it.each([
    ['no authority but those that Node.js knows', () => ourPair(), unverified],
    ['another authority', () => ['--etcd-ca', stranger.file, ...ourPair()], unverified],
    ['no certificate of its own', () => ['--etcd-ca', authority.file], refusedByEtcd],
    [
      'a certificate of another authority',
      () => ['--etcd-ca', authority.file, ...pair(stranger.issue('controller'))],
      refusedByEtcd,
    ],
  ])(
    'ends with exit code 6, and says why, with %s',
    async (_, parameters, reason) => {
      const refused = daemons.start('controller/main', ['--etcd', etcd.url, ...parameters()]);
      expect(await within(30_000, 'its end', refused.exited)).toBe(6);
      expect(refused.logTail()).toMatch(reason);
    },
    60_000,
  );
});
