import type { Clock } from '../../proto/base/clock.ts';
import { EtcdStore } from './etcd-store.ts';
import { FileStore } from './file-store.ts';
import type { Store } from './store.ts';

/** etcd when there are endpoints, else the embedded file store in `dataDirectory`. */
export function openStore(etcd: readonly string[], dataDirectory: string, clock: Clock): Store {
  return etcd.length > 0
    ? new EtcdStore({ hosts: [...etcd], clock })
    : FileStore.open(dataDirectory);
}
