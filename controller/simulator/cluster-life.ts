import { applyGroupEvent, type Group, type GroupEvent, initialGroup } from '../cluster/group.ts';

/** A device that goes or comes while the trace is served. */
export interface ClusterChange {
  readonly atSeconds: number;
  readonly type: 'worker-lost' | 'worker-joined';
  readonly device: string;
}

/** What the group's machine wants done. */
export interface Orders {
  readonly endEpoch: boolean;
  /** The epoch to bring up; null: none. */
  readonly startEpoch: number | null;
}

const incarnation = 'simulated';

/** The controller's own machine of a group's life (controller/cluster/group.ts), with one model and devices by name. */
export class ClusterLife {
  readonly #present: Set<string>;
  #group: Group = initialGroup(0);

  constructor(devices: readonly string[]) {
    this.#present = new Set(devices);
  }

  get present(): ReadonlySet<string> {
    return this.#present;
  }

  get epoch(): number {
    return this.#group.epoch;
  }

  deploy(policy: string): Orders {
    const request = {
      ...{ modelPath: '', modelId: 'simulated', policy, numerics: 'exact', quantization: '' },
      ...{ workersMin: 1, workload: null, ranks: [] },
    };
    return this.#apply({ type: 'deploy', request, attended: false });
  }

  /** The plan of the epoch uses these devices. */
  chosen(devices: readonly string[]): void {
    const members = new Map(devices.map((device) => [device, incarnation]));
    this.#apply({ type: 'members-chosen', epoch: this.epoch, members });
  }

  /** False when the epoch has been given up meanwhile. */
  serving(epoch: number): boolean {
    this.#apply({ type: 'serving', epoch });
    return epoch === this.epoch && this.#group.phase === 'ready';
  }

  failed(reason: string): Orders {
    return this.#apply({ type: 'deploy-failed', epoch: this.epoch, reason });
  }

  isMember(device: string): boolean {
    return this.#group.members.has(device);
  }

  enter(device: string): void {
    this.#present.add(device);
  }

  /** The device is gone, though nobody knows yet. */
  leave(device: string): void {
    this.#present.delete(device);
  }

  noticeLoss(device: string): Orders {
    return this.#apply({ type: 'worker-lost', id: device, incarnation, reason: 'it was silent' });
  }

  joined(): Orders {
    return this.#apply({ type: 'worker-joined' });
  }

  #apply(event: GroupEvent): Orders {
    const { group, effects } = applyGroupEvent(this.#group, event);
    this.#group = group;
    const start = effects.find((effect) => effect.type === 'start-deployment');
    return {
      endEpoch: effects.some((effect) => effect.type === 'end-epoch'),
      startEpoch: start?.epoch ?? null,
    };
  }
}
