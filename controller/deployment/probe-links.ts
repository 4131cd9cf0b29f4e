/** What a step's collectives cost each rank: measured in a collective of all workers, formed for that and dropped. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { LinkLine } from '../../proto/domain/plan.ts';
import { fitLink } from '../profiler/fit-link.ts';
import type { GroupWorker, Progress } from './group-worker.ts';
import {
  type LinkRecord,
  linkKey,
  loadRecord,
  type MeasurementStore,
} from './measurement-store.ts';
import type { MeasuringPorts, ProfileOptions } from './profile-workers.ts';

/** Decode batches and prefill chunks: what a step sums grows with its tokens. */
const probeTokens = [1, 4, 16, 64, 256];
const repetitions = 25;
const budgetMs = 1_500;
/** To form the collective, and of each sum. */
const collectiveDeadlineMs = 10_000;
const callDeadlineMs = 30_000;
/** o_proj and down_proj of every layer. */
const sumsPerLayer = 2;

async function measure(
  workers: readonly GroupWorker[],
  { model, fence, stepTokensMax }: ProfileOptions,
  unixMs: () => number,
): Promise<LinkRecord> {
  const tokens = probeTokens.filter((count) => count <= stepTokensMax);
  const ranks = workers.length;
  const collectiveAddresses = await Promise.all(
    workers.map(({ client }, rank) => client.openProbe({ fence, rank, ranks })),
  );
  const request = {
    fence,
    collectiveAddresses,
    tokens,
    hiddenSize: model.hiddenSize,
    sums: sumsPerLayer * model.layers,
    repetitions,
    budgetMs,
    deadlineMs: collectiveDeadlineMs,
  };
  const seconds = await Promise.all(
    workers.map(({ client }) => client.probeCollective(request, callDeadlineMs)),
  );
  return {
    tokens,
    seconds: Object.fromEntries(workers.map(({ id }, rank) => [id, seconds[rank] ?? []])),
    measuredUnixMs: unixMs(),
  };
}

function linesOf(
  workers: readonly GroupWorker[],
  { tokens, seconds }: LinkRecord,
): Map<string, LinkLine> {
  const lineOf = ({ id }: GroupWorker) => {
    const measured = seconds[id];
    if (measured === undefined) throw new HelsError('internal', `worker '${id}' was not probed`);
    return fitLink(tokens, measured);
  };
  return new Map(workers.map((worker) => [worker.id, lineOf(worker)]));
}

/** Each worker's link by worker id; null: the collectives of just these workers were never measured. */
export async function storedLinks(
  workers: readonly GroupWorker[],
  model: ModelSpec,
  store: MeasurementStore,
): Promise<Map<string, LinkLine> | null> {
  const record = await loadRecord<LinkRecord>(store, linkKey(workers, model));
  return record === null ? null : linesOf(workers, record);
}

/** Each worker's link by worker id, from the store or measured; all zero for one worker, which has nobody to sum with. */
export async function probeLinks(
  workers: readonly GroupWorker[],
  options: ProfileOptions,
  ports: MeasuringPorts,
  progress: Progress,
): Promise<Map<string, LinkLine>> {
  const [only] = workers;
  if (only !== undefined && workers.length === 1) {
    return new Map([[only.id, { constant: 0, perToken: 0 }]]);
  }
  const known = options.refresh ? null : await storedLinks(workers, options.model, ports.store);
  if (known !== null) return known;
  progress(`${workers.length} workers: timing their collectives`, 0);
  const record = await measure(workers, options, ports.unixMs);
  await ports.store.saveMeasurement(linkKey(workers, options.model), JSON.stringify(record));
  return linesOf(workers, record);
}
