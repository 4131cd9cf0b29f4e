/** Whom the parts of a cluster connect to where the environment names a proxy, as it does on many sites. */
import { credentials } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { HelsClient } from '../../../client/sdk/index.ts';
import { WorkerClient } from '../../../controller/deployment/worker-client.ts';
import { EtcdStore } from '../../../controller/store/etcd-store.ts';
import { systemClock } from '../../../proto/base/clock.ts';
import { RegistryService } from '../../../proto/rpc/definitions.ts';
import { Peers } from '../../../proto/rpc/peers.ts';
import { Listener } from '../../support/listener.ts';

let [proxy, host]: Listener[] = [];
beforeEach(async () => {
  [proxy, host] = [await Listener.start(), await Listener.start()];
  for (const name of ['grpc_proxy', 'https_proxy', 'http_proxy', 'HTTPS_PROXY', 'HTTP_PROXY']) {
    vi.stubEnv(name, `http://${proxy.address}`);
  }
  for (const name of ['no_grpc_proxy', 'no_proxy', 'NO_PROXY']) vi.stubEnv(name, '');
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await Promise.all([proxy?.close(), host?.close()]);
});

const plain = credentials.createInsecure();
const calls: [string, (address: string) => Promise<unknown>][] = [
  [
    'the SDK and helsctl',
    (address) => {
      const client = new HelsClient({ address });
      return client.status().finally(() => client.close());
    },
  ],
  [
    'a worker towards its controller',
    (address) => {
      const { stub } = new Peers(RegistryService, [address], plain).current;
      const answered = new Promise((resolve, reject) =>
        stub.heartbeat({}, (error, value) => (error === null ? resolve(value) : reject(error))),
      );
      return answered.finally(() => stub.close());
    },
  ],
  [
    'a controller towards a worker',
    (address) => {
      const client = new WorkerClient(address, plain, systemClock.unixMs);
      return client.describe().finally(() => client.stub.close());
    },
  ],
  [
    'a controller towards etcd',
    (address) => {
      const store = new EtcdStore({ hosts: [`http://${address}`], clock: systemClock });
      return store.get('/hels').finally(() => store.close());
    },
  ],
];

it.each(calls)('a proxy of the environment sees nothing of %s', async (_, call) => {
  await expect(call(host?.address ?? '')).rejects.toThrow();
  expect(host?.connections).toBeGreaterThan(0);
  expect(proxy?.connections).toBe(0);
});
