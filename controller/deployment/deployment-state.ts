import { HelsError } from '../../proto/domain/errors.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { DeploymentRequest } from '../cluster/group.ts';
import { keys } from '../store/keys.ts';
import type { Leadership } from '../store/leadership.ts';
import type { Store } from '../store/store.ts';
import type { DeploymentStore } from './coordinator-options.ts';
import type { DrainStore } from './drain-service.ts';
import type { MeasurementStore } from './measurement-store.ts';

/** Plans kept for people to look back at. */
const plansKept = 20;

/** The deployment, the plans and what else a controller must know of its workers in the store, every write fenced by the term. */
export class DeploymentState implements DeploymentStore, DrainStore, MeasurementStore {
  readonly #store: Store;
  readonly #leadership: Leadership;
  /** Writes happen in the order they were asked for. */
  #turn: Promise<unknown> = Promise.resolve();
  /** The epoch whose plan was stored, or may have been, before it was sure to begin. */
  #ahead: number | null = null;

  constructor(store: Store, leadership: Leadership) {
    this.#store = store;
    this.#leadership = leadership;
  }

  async loadDeployment(): Promise<DeploymentRequest | null> {
    const entry = await this.#store.get(keys.deployment);
    return entry === null ? null : (JSON.parse(entry.value) as DeploymentRequest);
  }

  /** The newest epoch that a plan was stored under; 0 without one. */
  async lastEpoch(): Promise<number> {
    const plans = await this.#store.list(keys.plansPrefix);
    return Number(plans.at(-1)?.key.slice(keys.plansPrefix.length) ?? 0);
  }

  /** Conditional on what it replaces: a write that an outage delayed must not undo a later one. */
  saveDeployment(request: DeploymentRequest | null): Promise<void> {
    const key = keys.deployment;
    return this.#inTurn(async () => {
      const held = await this.#store.get(key);
      const condition = { key, revision: held?.revision ?? 0 };
      const write = { key, value: JSON.stringify(request) };
      const saved = await this.#leadership.write(
        [condition],
        [request === null ? { type: 'delete', key } : { type: 'put', ...write }],
      );
      if (!saved) throw new HelsError('internal', 'the stored deployment changed meanwhile');
    });
  }

  savePlan(plan: ShardPlan__Output): Promise<void> {
    const replaces = this.#ahead === plan.epoch;
    this.#ahead = null;
    return this.#putPlan(plan, replaces);
  }

  savePlanAhead(plan: ShardPlan__Output): Promise<void> {
    const replaces = this.#ahead === plan.epoch;
    this.#ahead = plan.epoch;
    return this.#putPlan(plan, replaces);
  }

  #putPlan(plan: ShardPlan__Output, replaces: boolean): Promise<void> {
    return this.#inTurn(async () => {
      const key = keys.plan(plan.epoch);
      const held = replaces ? await this.#store.get(key) : null;
      const older = await this.#store.list(keys.plansPrefix);
      const surplus = older.slice(0, Math.max(0, older.length - plansKept + 1));
      const saved = await this.#leadership.write(
        // An epoch that has begun has one plan, for ever.
        [{ key, revision: held?.revision ?? 0 }],
        [
          { type: 'put', key, value: JSON.stringify(plan) },
          ...surplus.map((entry) => ({ type: 'delete' as const, key: entry.key })),
        ],
      );
      if (!saved)
        throw new HelsError('internal', `a plan of epoch ${plan.epoch} is stored already`);
    });
  }

  async loadDrained(): Promise<string[]> {
    const entry = await this.#store.get(keys.drained);
    return entry === null ? [] : (JSON.parse(entry.value) as string[]);
  }

  saveDrained(workerIds: readonly string[]): Promise<void> {
    const key = keys.drained;
    return this.#inTurn(async () => {
      const write = { type: 'put' as const, key, value: JSON.stringify(workerIds) };
      const saved = await this.#leadership.write([], [write]);
      if (!saved) throw new HelsError('internal', 'the drained workers could not be stored');
    });
  }

  async loadMeasurement(key: string): Promise<string | null> {
    return (await this.#store.get(key))?.value ?? null;
  }

  saveMeasurement(key: string, value: string): Promise<void> {
    return this.#inTurn(async () => {
      await this.#leadership.write([], [{ type: 'put', key, value }]);
    });
  }

  async #inTurn(write: () => Promise<void>): Promise<void> {
    const result = this.#turn.then(write);
    this.#turn = result.catch(() => undefined);
    await result;
  }
}
