import type { Clock } from '../../proto/base/clock.ts';
import { readAuthority, readCertificate } from '../../proto/base/tls.ts';
import type { ControllerConfig } from '../config.ts';
import { EtcdStore, type EtcdTls } from './etcd-store.ts';
import { FileStore } from './file-store.ts';
import type { Store } from './store.ts';

type StoreConfig = Pick<ControllerConfig, 'etcd' | 'etcdTls' | 'dataDirectory'>;

/** etcd when there are endpoints, else the embedded file store. Throws config-invalid for files that are not what they should be. */
export function openStore(config: StoreConfig, clock: Clock): Store {
  if (config.etcd.length === 0) return FileStore.open(config.dataDirectory, clock);
  return new EtcdStore({ hosts: [...config.etcd], clock, tls: readEtcdTls(config, clock) });
}

function readEtcdTls({ etcdTls }: StoreConfig, clock: Clock): EtcdTls {
  const nowUnixMs = clock.unixMs();
  const { authority, client } = etcdTls;
  return {
    authority: authority && readAuthority(authority, nowUnixMs).authority,
    client: client && readCertificate(client, nowUnixMs),
  };
}
