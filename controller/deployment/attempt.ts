import type { HelsError } from '../../proto/domain/errors.ts';
import type { PlanReport } from '../../proto/gen/hels/v1/PlanReport.ts';
import type { DeploymentRequest } from '../cluster/group.ts';
import type { Corrections } from './corrections.ts';
import type { LoadedGroup } from './deployment-run.ts';
import type { EngineGroup } from './engine-group.ts';
import type { GroupWorker } from './group-worker.ts';
import { type HeldEpochs, releaseRanks } from './load-plan.ts';
import { PhaseChannel } from './phase-channel.ts';
import type { Replanning } from './replanning.ts';
import { readServedFiles, type ServedFiles } from './served-files.ts';

/** Nobody waits: the attempt reads the files itself, and gives workers all the time they need. */
export const nothingInherited = (): Inherited => ({
  channel: new PhaseChannel<PlanReport>(),
  files: null,
  workersTimeoutMs: Number.POSITIVE_INFINITY,
  settleMs: Number.POSITIVE_INFINITY,
  corrections: null,
});

/** The attempt under way or the group being served. A re-plan changes it in its place: the requests stay. */
export interface Attempt {
  epoch: number;
  /** Whose workers hold shards, and of which epoch. */
  held: HeldEpochs;
  /** Who loads, from when the plan has chosen them. */
  chosen: readonly GroupWorker[];
  replanning: Replanning | null;
  abort: AbortController;
  channel: PhaseChannel<PlanReport>;
  files: ServedFiles | null;
  loaded: LoadedGroup | null;
  engineGroup: EngineGroup | null;
  report: PlanReport | null;
  workersTimeoutMs: number;
  /** When no worker has come for so long, those that are there are enough. */
  settleMs: number;
  createdUnixSeconds: number;
  /** Of the trial that this attempt follows; null for the first. */
  corrections: Corrections | null;
}

/** What an attempt takes over from the caller that waits for it or from the attempt before. */
export type Inherited = Pick<
  Attempt,
  'channel' | 'files' | 'workersTimeoutMs' | 'settleMs' | 'corrections'
>;

/** They live on in the next attempt: this one keeps neither its caller nor its files. */
export function inheritedFrom(attempt: Attempt, corrections: Corrections): Inherited {
  const { channel, files, workersTimeoutMs, settleMs } = attempt;
  attempt.channel = new PhaseChannel<PlanReport>();
  attempt.files = null;
  return { channel, files, workersTimeoutMs, settleMs, corrections };
}

export function newAttempt(epoch: number, inherited: Inherited, unixMs: number): Attempt {
  return {
    ...inherited,
    epoch,
    held: new Map(),
    chosen: [],
    replanning: null,
    abort: new AbortController(),
    loaded: null,
    engineGroup: null,
    report: null,
    createdUnixSeconds: Math.floor(unixMs / 1000),
  };
}

/** The files that it serves, read now unless it inherits them. Throws why it has ended, if it has meanwhile. */
export async function openFiles(
  attempt: Attempt,
  request: DeploymentRequest,
): Promise<ServedFiles> {
  if (attempt.files !== null) return attempt.files;
  const files = await readServedFiles(request.modelPath, request.modelId, request);
  if (attempt.abort.signal.aborted) {
    await files.text.close();
    throw attempt.abort.signal.reason;
  }
  attempt.files = files;
  return files;
}

/** Ends its requests and frees what its workers hold. Nobody waits for a worker that is not `registered` any more. */
export async function closeAttempt(
  { epoch, engineGroup, replanning, loaded, chosen, files }: Attempt,
  error: HelsError,
  term: number,
  registered: readonly Pick<GroupWorker, 'id' | 'incarnation'>[],
): Promise<void> {
  await engineGroup?.close(error);
  // Of a load or move under way nobody knows who has begun.
  const candidates = replanning?.candidates ?? loaded?.candidates ?? chosen;
  const lives = new Map(registered.map(({ id, incarnation }) => [id, incarnation]));
  const isThere = ({ id, incarnation }: GroupWorker) => lives.get(id) === incarnation;
  void releaseRanks(
    candidates.filter((worker) => !isThere(worker)),
    { term, epoch },
  );
  await releaseRanks(candidates.filter(isThere), { term, epoch });
  await files?.text.close();
}
