import { HelsError } from '../../proto/domain/errors.ts';
import type { Fence } from '../../proto/gen/hels/v1/Fence.ts';
import type { PrepareResult__Output } from '../../proto/gen/hels/v1/PrepareResult.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { GroupWorker, Progress } from './group-worker.ts';

/** Loading reads the weights from disk once: minutes for the largest models. */
const prepareDeadlineMs = 30 * 60_000;
const connectDeadlineMs = 20_000;
const releaseDeadlineMs = 10_000;

function rankOf(plan: ShardPlan__Output, worker: GroupWorker): number {
  const rank = plan.ranks.find(({ workerId }) => workerId === worker.id);
  if (rank === undefined) {
    throw new HelsError(
      'internal',
      `worker '${worker.id}' is not in the plan of epoch ${plan.epoch}`,
    );
  }
  return rank.rank;
}

/** Every rank loads its slices and opens its collective's address. Results by rank. */
export async function prepareRanks(
  workers: readonly GroupWorker[],
  plan: ShardPlan__Output,
  fence: Fence,
  progress: Progress,
): Promise<PrepareResult__Output[]> {
  const results: PrepareResult__Output[] = [];
  let ready = 0;
  await Promise.all(
    workers.map(async (worker) => {
      const rank = rankOf(plan, worker);
      results[rank] = await worker.client.prepare(
        { fence, plan, rank },
        prepareDeadlineMs,
        (text) => progress(`${worker.id}: ${text}`, ready / workers.length),
      );
      ready += 1;
      progress(`${worker.id}: weights loaded`, ready / workers.length);
    }),
  );
  return results;
}

/** Forms the collective of the epoch; kernel fingerprints by rank. */
export async function connectRanks(
  workers: readonly GroupWorker[],
  plan: ShardPlan__Output,
  fence: Fence,
  prepared: readonly PrepareResult__Output[],
): Promise<string[]> {
  const request = {
    fence,
    collectiveAddresses: prepared.map(({ collectiveAddress }) => collectiveAddress),
    deadlineMs: connectDeadlineMs,
  };
  const fingerprints: string[] = [];
  await Promise.all(
    workers.map(async (worker) => {
      fingerprints[rankOf(plan, worker)] = await worker.client.connect(
        request,
        // The worker answers at its own deadline; this one is for a worker that does not.
        connectDeadlineMs + 5_000,
      );
    }),
  );
  return fingerprints;
}

/** Frees what an epoch holds; a worker that does not answer frees it by itself when the next epoch comes. */
export async function releaseRanks(workers: readonly GroupWorker[], fence: Fence): Promise<void> {
  await Promise.allSettled(
    workers.map((worker) => worker.client.release(fence, releaseDeadlineMs)),
  );
}

/** exact: equal kernels everywhere, so equal bits; mixed: the fingerprints differ; fast: numerics that promise nothing. */
export function numericsClassOf(
  plan: ShardPlan__Output,
  fingerprints: readonly string[],
): 'exact' | 'mixed' | 'fast' {
  if (plan.numerics === 'fast') return 'fast';
  return new Set(fingerprints).size === 1 ? 'exact' : 'mixed';
}
