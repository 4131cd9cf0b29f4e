/** What becomes of the workers, as events for people and as a count. */
import type { MembershipEffect, MembershipEvent } from '../cluster/membership.ts';
import type { ClusterEvents } from './cluster-events.ts';

/** Told of each effect and of what had it. */
export type MembershipWatch = (effect: MembershipEffect, cause: MembershipEvent) => void;

export interface MemberEventsOptions {
  events: Pick<ClusterEvents, 'tell' | 'record'>;
  workersLost: { inc(): void };
  /** Of this controller. */
  version: string;
}

export function watchMembers({
  events,
  workersLost,
  version,
}: MemberEventsOptions): MembershipWatch {
  const joined = (cause: MembershipEvent) => {
    // A worker that is no longer drained joins too; that is told where it is asked for.
    if (cause.type !== 'register') return;
    const { id, address, version: other } = cause.worker;
    events.record('worker-joined', id, `worker '${id}' registered from ${address}`);
    if (other === version) return;
    const message = `worker '${id}' runs version ${other}, this controller ${version}: upgrade all hosts together`;
    events.tell('version-differs', id, message);
  };
  return (effect, cause) => {
    const { id } = effect;
    switch (effect.type) {
      case 'worker-joined':
        joined(cause);
        return;
      case 'worker-suspect':
        events.record(effect.type, id, `no plan uses worker '${id}' for now: ${effect.reason}`);
        return;
      case 'worker-returned':
        events.record(effect.type, id, `worker '${id}' is heard of again`);
        return;
      case 'worker-lost':
        if (cause.type === 'deregister') {
          events.record('worker-left', id, `worker '${id}' said goodbye: ${effect.reason}`);
          return;
        }
        workersLost.inc();
        events.record(effect.type, id, `worker '${id}' was lost: ${effect.reason}`);
        return;
    }
  };
}
