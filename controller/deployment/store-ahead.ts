import { HelsError, toHelsError } from '../../proto/domain/errors.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { EngineGroup } from './engine-group.ts';
import type { GroupWorker } from './group-worker.ts';

export interface StoringAhead<Begun> {
  readonly engine: Pick<EngineGroup, 'reserve'>;
  /** What is served, and what is to be. */
  readonly current: ShardPlan__Output;
  readonly next: ShardPlan__Output;
  savePlan(plan: ShardPlan__Output): Promise<void>;
  /** Throws when the plan can no longer follow what is served: storing takes time. */
  begin(): Begun;
}

/**
 * Stores the plan of a re-plan while nobody waits yet: a store that does not answer then costs nothing. From the beginning on only
 * requests are taken that can go on under both plans; when it throws, as before. Resolves to what has begun.
 */
export async function storeAhead<Begun>(storing: StoringAhead<Begun>): Promise<Begun> {
  const { engine, current, next } = storing;
  engine.reserve(next);
  try {
    await storing.savePlan(next).catch((error: unknown) => {
      const { code, message } = toHelsError(error);
      throw new HelsError(code, `the new plan could not be stored: ${message}`, { cause: error });
    });
    return storing.begin();
  } catch (error) {
    engine.reserve(current);
    throw error;
  }
}

/** Throws worker-lost for one that does not answer, or is not the one that was meant. */
export function refuseLost(
  workers: readonly Pick<GroupWorker, 'id' | 'incarnation'>[],
  available: readonly Pick<GroupWorker, 'id' | 'incarnation'>[],
): void {
  const there = new Map(available.map(({ id, incarnation }) => [id, incarnation]));
  const lost = workers.find(({ id, incarnation }) => there.get(id) !== incarnation);
  if (lost !== undefined) {
    throw new HelsError('worker-lost', `worker '${lost.id}' of the new plan was lost meanwhile`);
  }
}
