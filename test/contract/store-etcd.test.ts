import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { EtcdStore } from '../../controller/store/etcd-store.ts';
import { keys } from '../../controller/store/keys.ts';
import { campaign } from '../../controller/store/leadership.ts';
import type { Store, WatchEvent } from '../../controller/store/store.ts';
import { systemClock } from '../../proto/base/clock.ts';
import { aborted, eventually, within } from '../support/deadline.ts';
import { EtcdServer } from '../support/etcd-server.ts';
import { TcpProxy } from '../support/tcp-proxy.ts';
import { storeContract } from './store.contract.ts';

const openAt = (url: string) => new EtcdStore({ hosts: [url], clock: systemClock });

let contractServer: EtcdServer;
storeContract('etcd', {
  setUp: async () => {
    contractServer = await EtcdServer.start();
  },
  tearDown: async () => contractServer?.stop(),
  open: async () => openAt(contractServer.url),
  reopen: async (store) => {
    await store.close();
    return openAt(contractServer.url);
  },
  openBeside: async () => openAt(contractServer.url),
  leaseRunsOut: (ttlMs) => contractServer.leaseRunsOut(ttlMs),
});

describe('etcd store when etcd or the way to it fails', () => {
  let server: EtcdServer;
  let link: TcpProxy;
  const opened: Store[] = [];
  const open = (url: string) => {
    const store = openAt(url);
    opened.push(store);
    return store;
  };
  const never = new AbortController().signal;
  const waitMs = 30_000;

  beforeAll(async () => {
    server = await EtcdServer.start();
    link = await TcpProxy.start(server.port);
  });
  afterEach(async () => {
    link.cut();
    for (const store of opened.splice(0)) await store.close();
  });
  afterAll(async () => {
    await link?.close();
    await server?.stop();
  });

  const put = (key: string, value = '') => ({ type: 'put' as const, key, value });

  /** Values put under a prefix, as they come. */
  function follow(store: Store, prefix: string, revision: number) {
    const values: string[] = [];
    const abort = new AbortController();
    const done = (async () => {
      for await (const event of store.watch(prefix, revision, abort.signal)) {
        values.push(storyOf(event));
      }
    })();
    done.catch(() => undefined);
    return {
      values,
      async until(count: number) {
        await eventually(waitMs, `${count} events (${values})`, () => values.length >= count);
        abort.abort();
        await within(waitMs, 'the end of the watch', done);
      },
    };
  }
  const storyOf = (event: WatchEvent) => (event.type === 'put' ? event.entry.value : 'deleted');

  it('says unreachable within a deadline when nothing listens', async () => {
    const store = open('http://127.0.0.1:1');
    await expect(within(waitMs, 'get', store.get('/a'))).rejects.toMatchObject({
      code: 'unreachable',
      message: expect.stringContaining('etcd does not answer'),
    });
    await expect(within(waitMs, 'lease', store.grantLease(2_000))).rejects.toMatchObject({
      code: 'unreachable',
    });
  });

  it('ends a call over a half-open link by its deadline, and works again when the link does', async () => {
    const store = open(link.url);
    await store.transact([], [put('/half', '1')]);
    link.freeze();
    await expect(within(waitMs, 'get', store.get('/half'))).rejects.toMatchObject({
      code: 'unreachable',
    });
    link.resume();
    const found = await eventually(waitMs, 'get after the outage', () => store.get('/half'));
    expect(found.value).toBe('1');
  });

  it('does not let a write that the outage delayed undo a later one', async () => {
    const store = open(link.url);
    const direct = open(server.url);
    const first = await direct.transact([], [put('/late', 'first')]);
    const revision = first.applied ? first.revision : 0;
    await store.get('/late');
    link.freeze();
    await expect(
      store.transact([{ key: '/late', revision }], [put('/late', 'delayed')]),
    ).rejects.toMatchObject({ code: 'unreachable' });
    await direct.transact([{ key: '/late', revision }], [put('/late', 'second')]);
    link.resume();
    await eventually(waitMs, 'the link', () => store.get('/late'));
    expect((await direct.get('/late'))?.value).toBe('second');
  });

  it('loses and repeats no event when the link is cut again and again', async () => {
    const direct = open(server.url);
    const start = await direct.transact([], [put('/cut/start')]);
    const watch = follow(open(link.url), '/cut/', start.applied ? start.revision : 0);
    for (let i = 0; i < 60; i += 1) {
      await direct.transact([], [put('/cut/a', `a${i}`), put('/cut/b', `b${i}`)]);
      if (i % 7 === 3) link.cut();
      if (i % 20 === 10) await new Promise((resolve) => setTimeout(resolve, 300));
    }
    await watch.until(120);
    expect(watch.values).toEqual(Array.from({ length: 60 }, (_, i) => [`a${i}`, `b${i}`]).flat());
  });

  it('goes on when etcd was killed and comes back: no refused write after it answers, no event lost', async () => {
    const store = open(server.url);
    const start = await store.transact([], [put('/restart/0', 'start')]);
    const watch = follow(store, '/restart/', start.applied ? start.revision : 0);
    await store.transact([], [put('/restart/0', 'before')]);
    await server.kill();
    await expect(store.transact([], [put('/restart/0', 'x')])).rejects.toMatchObject({
      code: 'unreachable',
    });
    await server.run();
    await eventually(waitMs, 'a write after the restart', () =>
      store.transact([], [put('/restart/0', 'after')]),
    );
    await watch.until(2);
    expect(watch.values.filter((value) => value !== 'x').slice(0, 2)).toEqual(['before', 'after']);
  });

  it('keeps a watch open for longer than the deadline of a call', async () => {
    const store = open(server.url);
    const start = await store.transact([], [put('/long', 'start')]);
    const watch = follow(store, '/long', start.applied ? start.revision : 0);
    // As long as this.
    await open(link.url).get('/long');
    const late = open(link.url);
    link.freeze();
    await expect(late.get('/long')).rejects.toMatchObject({ code: 'unreachable' });
    link.resume();
    await store.transact([], [put('/long', 'late')]);
    await watch.until(1);
    expect(watch.values).toEqual(['late']);
  });

  it('refuses a watch from a revision that etcd has forgotten', async () => {
    const store = open(server.url);
    const start = await store.transact([], [put('/old', '1')]);
    await store.transact([], [put('/old', '2')]);
    const last = await store.transact([], [put('/old', '3')]);
    await server.compact(last.applied ? last.revision : 0);
    const read = async () => {
      for await (const _ of store.watch('/old', start.applied ? start.revision : 0, never)) return;
    };
    await expect(within(waitMs, 'the refusal', read())).rejects.toMatchObject({
      code: 'internal',
      message: expect.stringContaining('too old'),
    });
  });

  it('loses a lease by its own clock before etcd lets the key go, and keeps it alive no longer', async () => {
    const direct = open(server.url);
    const first = await within(waitMs, 'first', campaign(open(link.url), 'first', never));
    let told = 0;
    first.lost.addEventListener('abort', () => {
      told += 1;
    });
    const next = campaign(direct, 'second', never);
    link.freeze();
    await within(waitMs, 'the loss', aborted(first.lost));
    expect(await direct.get(keys.election)).toMatchObject({ value: 'first', revision: first.term });
    const second = await within(waitMs, 'the next leader', next);
    expect(second.term).toBeGreaterThan(first.term);
    link.resume();
    const stale = await eventually(waitMs, 'the refusal of the stale leader', () =>
      first.write([], [put('/state', 'stale')]).then(
        () => 'accepted',
        (error) => (error.code === 'unreachable' ? null : error.code),
      ),
    );
    expect(stale).toBe('stale-fence');
    expect(await direct.get('/state')).toBeNull();
    await second.resign();
    expect(told).toBe(1);
  });

  it('lets the key of a lost lease go even when the link comes back before etcd noticed', async () => {
    const direct = open(server.url);
    const lease = await open(link.url).grantLease(6_000);
    const holder = opened.at(-1) as Store;
    await holder.transact([], [{ ...put('/leased'), lease }]);
    link.freeze();
    await within(waitMs, 'the loss', aborted(lease.lost));
    link.resume();
    expect(await direct.get('/leased')).not.toBeNull();
    await eventually(
      waitMs,
      'the end of the key',
      async () => (await direct.get('/leased')) === null,
    );
  });
});
