import { type ErrorCode, HelsError, toHelsError } from '../../proto/domain/errors.ts';
import type { Fence__Output } from '../../proto/gen/hels/v1/Fence.ts';
import type { KvMigration } from '../../proto/gen/hels/v1/KvMigration.ts';
import type { PrepareResult__Output } from '../../proto/gen/hels/v1/PrepareResult.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { GroupWorker, Progress } from './group-worker.ts';

/** Loading reads the weights from disk once: minutes for the largest models. */
const prepareDeadlineMs = 30 * 60_000;
const connectDeadlineMs = 20_000;
/** KV of a whole group at a slow link's speed. */
const migrationDeadlineMs = 10 * 60_000;
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

/** The epoch whose shard each worker holds, by worker id. */
export type HeldEpochs = Map<string, number>;

/**
 * Every rank loads its slices and opens its collective's address. Results by rank. A worker that holds the shard of an earlier epoch
 * takes over from it what it can.
 */
export async function prepareRanks(
  workers: readonly GroupWorker[],
  plan: ShardPlan__Output,
  fence: Fence__Output,
  progress: Progress,
  held: HeldEpochs = new Map(),
): Promise<PrepareResult__Output[]> {
  const results: PrepareResult__Output[] = [];
  let ready = 0;
  await Promise.all(
    workers.map(async (worker) => {
      const rank = rankOf(plan, worker);
      const epoch = held.get(worker.id);
      const previous = epoch === undefined ? null : { term: fence.term, epoch };
      results[rank] = await worker.client.prepare(
        { fence, plan, rank, previous },
        prepareDeadlineMs,
        (text) => progress(`${worker.id}: ${text}`, ready / workers.length),
      );
      // An older attempt may still hear of its own end.
      held.set(worker.id, Math.max(fence.epoch, held.get(worker.id) ?? 0));
      ready += 1;
      progress(`${worker.id}: weights loaded`, ready / workers.length);
    }),
  );
  return results;
}

interface Connected {
  /** Of the kernels, by rank. */
  fingerprints: string[];
  /** On the slowest rank; of all ranks. */
  migrationSeconds: number;
  migrationBytes: number;
}

/** Forms the collective of the epoch; then KV of the epoch before moves in it, if there is a migration. */
export async function connectRanks(
  workers: readonly GroupWorker[],
  plan: ShardPlan__Output,
  fence: Fence__Output,
  prepared: readonly PrepareResult__Output[],
  migration: KvMigration | null,
): Promise<Connected> {
  const request = {
    fence,
    collectiveAddresses: prepared.map(({ collectiveAddress }) => collectiveAddress),
    deadlineMs: connectDeadlineMs,
    migration,
  };
  // The worker answers at its own deadlines; this one is for a worker that does not.
  const keeps = prepared.some(({ kvKept }) => kvKept);
  const deadlineMs = connectDeadlineMs + 5_000 + (keeps ? migrationDeadlineMs : 0);
  const connected: Connected = { fingerprints: [], migrationSeconds: 0, migrationBytes: 0 };
  await Promise.all(
    workers.map(async (worker) => {
      const response = await worker.client.connect(request, deadlineMs);
      connected.fingerprints[rankOf(plan, worker)] = response.fingerprint;
      const { migrationSeconds } = connected;
      connected.migrationSeconds = Math.max(migrationSeconds, response.migrationSeconds);
      connected.migrationBytes += response.migrationBytes;
    }),
  );
  return connected;
}

/** What the workers' loading says of their speed; `before` where nothing was read. Bytes a second by worker id. */
export function loadRatesOf(
  workers: readonly GroupWorker[],
  prepared: readonly PrepareResult__Output[],
  before: ReadonlyMap<string, number>,
): Map<string, number> {
  const rates = new Map(before);
  for (const [rank, { id }] of workers.entries()) {
    const { weightBytesLoaded = 0, weightBytesAdopted = 0, seconds = 0 } = prepared[rank] ?? {};
    // A small rest is mostly opening files, which says nothing of a large one.
    if (weightBytesLoaded > weightBytesAdopted && seconds > 0) {
      rates.set(id, weightBytesLoaded / seconds);
    }
  }
  return rates;
}

/** Those that did not say that they have freed what they hold; they do so by themselves when the next epoch comes. */
interface Unreleased {
  /** Nothing answers at their address. */
  readonly unreachable: readonly GroupWorker[];
  /** They may hang, or be in the middle of a load that nobody wants any more. */
  readonly late: readonly GroupWorker[];
}

/** Frees what an epoch holds. Never rejects. */
export async function releaseRanks(
  workers: readonly GroupWorker[],
  fence: Fence__Output,
): Promise<Unreleased> {
  const codes = await Promise.all(
    workers.map((worker) =>
      worker.client.release(fence, releaseDeadlineMs).then(
        () => null,
        (error: unknown) => toHelsError(error).code,
      ),
    ),
  );
  const withCode = (code: ErrorCode) => workers.filter((_, index) => codes[index] === code);
  return { unreachable: withCode('unreachable'), late: withCode('deadline-exceeded') };
}
