/** Takes workers out of service, and back: their work moves to the others first, and no later plan uses them. */
import type { Clock } from '../../proto/base/clock.ts';
import type { Logger } from '../../proto/base/log.ts';
import { HelsError, toHelsError } from '../../proto/domain/errors.ts';
import type { ReplanEvent } from '../../proto/gen/hels/v1/ReplanEvent.ts';
import { type Group, isServing } from '../cluster/group.ts';
import type { ClusterEvents } from './cluster-events.ts';
import type { LoadedGroup } from './deployment-run.ts';
import { Remembered } from './remembered.ts';
import type { ReplanService } from './replan-service.ts';
import { unstoredMessage } from './unstored.ts';
import type { WorkerRegistry } from './worker-registry.ts';

export interface DrainStore {
  loadDrained(): Promise<string[]>;
  saveDrained(workerIds: readonly string[]): Promise<void>;
}

export interface DrainServiceOptions {
  registry: Pick<WorkerRegistry, 'members' | 'available' | 'drained' | 'isDrained' | 'setDrained'>;
  coordinator: {
    readonly group: Group;
    readonly checksDeployment: boolean;
    readonly serving: { loaded: LoadedGroup } | null;
  };
  replanner: Pick<ReplanService, 'run'>;
  store: DrainStore;
  events: Pick<ClusterEvents, 'record'>;
  clock: Clock;
  log: Logger;
}

/** Whose want it is that the others cannot take over. */
function withoutWorker(workerId: string, { code, message, field }: HelsError): HelsError {
  const options = field === null ? {} : { field };
  return new HelsError(code, `without worker '${workerId}': ${message}`, options);
}

const asDeployed = { policy: '', workload: null, ranks: [] };

export class DrainService {
  readonly #options: DrainServiceOptions;
  readonly #remembered: Remembered<readonly string[]>;

  constructor(options: DrainServiceOptions) {
    this.#options = options;
    const save = (workerIds: readonly string[]) => options.store.saveDrained(workerIds);
    this.#remembered = new Remembered(save, 'the drained workers', options);
  }

  /** Tries again what could not be stored. */
  tick(): void {
    this.#remembered.tick();
  }

  /** Marks as they were when the controller last ran. */
  async restore(): Promise<void> {
    const { registry, store } = this.#options;
    for (const id of await store.loadDrained()) registry.setDrained(id, true);
  }

  /**
   * Ends when the worker has nothing left to do; it may then be stopped. Throws not-found for a worker that is not known, not-ready
   * while plans change, and what keeps the others from taking over (plan-infeasible): the worker then serves as before. A move that has
   * begun and fails leaves the mark: what follows it is planned without the worker.
   */
  async *drain(workerId: string): AsyncGenerator<ReplanEvent, void, undefined> {
    const { registry, replanner } = this.#options;
    this.#requireKnown(workerId);
    this.#refuseChange();
    const serves = this.#serves(workerId);
    if (serves) this.#requireOthers(workerId);
    const isNew = !registry.isDrained(workerId);
    if (isNew) await this.#mark(workerId, true);
    const unstored = isNew ? this.#unstored() : [];
    if (!serves) {
      if (isNew) this.#tellDrained(workerId);
      yield* unstored;
      yield { done: { replan: null, report: null } };
      return;
    }
    let moves = false;
    try {
      for await (const event of replanner.run(asDeployed)) {
        // From here on the mark stays, whatever becomes of the move.
        if (!moves && isNew) this.#tellDrained(workerId);
        moves = true;
        yield event;
        yield* unstored.splice(0);
      }
    } catch (error) {
      if (moves) throw error;
      if (isNew) await this.#mark(workerId, false);
      throw withoutWorker(workerId, toHelsError(error));
    }
  }

  /** Plans may use it again: the next deployment or re-plan, or one of the controller itself when it pays. */
  async *undo(workerId: string): AsyncGenerator<ReplanEvent, void, undefined> {
    const { registry } = this.#options;
    if (!registry.isDrained(workerId)) {
      this.#requireKnown(workerId);
    } else {
      await this.#mark(workerId, false);
      yield* this.#unstored();
      this.#options.events.record(
        'undrained',
        workerId,
        `plans may use worker '${workerId}' again`,
      );
    }
    yield { done: { replan: null, report: null } };
  }

  #tellDrained(workerId: string): void {
    this.#options.events.record('drained', workerId, `no plan uses worker '${workerId}' any more`);
  }

  #serves(workerId: string): boolean {
    const { coordinator } = this.#options;
    const { ranks = [] } = coordinator.serving?.loaded.shardPlan ?? {};
    return isServing(coordinator.group) && ranks.some((rank) => rank.workerId === workerId);
  }

  /** Whoever stops a worker then should know that another controller would still plan with it. */
  #unstored(): ReplanEvent[] {
    const { failure } = this.#remembered;
    if (failure === null) return [];
    const message = unstoredMessage('it holds', failure);
    return [{ progress: { phase: 'storing', message, fraction: 0 } }];
  }

  /** The mark is where every later plan looks before it is what the store says, so that none comes in between. */
  async #mark(workerId: string, drained: boolean): Promise<void> {
    const { registry } = this.#options;
    registry.setDrained(workerId, drained);
    this.#remembered.save(registry.drained());
    await this.#remembered.settled();
  }

  #requireKnown(workerId: string): void {
    const { registry } = this.#options;
    const known = registry.members().map(({ id }) => id);
    if (known.includes(workerId) || registry.isDrained(workerId)) return;
    const there = known.sort().join(', ') || 'none';
    throw new HelsError(
      'not-found',
      `worker_id: no worker '${workerId.slice(0, 80)}' is registered; registered: ${there}`,
      { field: 'worker_id' },
    );
  }

  #refuseChange(): void {
    const { group, checksDeployment } = this.#options.coordinator;
    const { phase, detail } = group;
    if (!checksDeployment && phase !== 'deploying' && phase !== 'replanning') return;
    const now = checksDeployment ? 'another deployment is being checked' : `${phase}: ${detail}`;
    throw new HelsError(
      'not-ready',
      `a worker is drained while nothing else changes plans; now: ${now}; try again when it is ready`,
    );
  }

  #requireOthers(workerId: string): void {
    const { registry, coordinator } = this.#options;
    const split = coordinator.group.request?.ranks ?? [];
    if (split.some((rank) => rank.workerId === workerId)) {
      throw new HelsError(
        'plan-infeasible',
        `worker '${workerId}' is in the split by hand that is served; change the split first: helsctl plan --apply --policy hels, or --ranks without it`,
        { field: 'worker_id' },
      );
    }
    if (registry.available().some(({ id }) => id !== workerId)) return;
    throw new HelsError(
      'plan-infeasible',
      `no worker is left to take over from '${workerId}'; start another and deploy over it, or undeploy the model`,
      { field: 'worker_id' },
    );
  }
}
