/**
 * Workers that join while a model is served become candidates of the next plan, where all that a plan needs of them is in the store: their
 * lines, and the links of everybody that would be there. Nothing is measured while requests run; who was never measured waits for the next
 * deployment.
 */
import type { Clock } from '../../proto/base/clock.ts';
import type { Logger } from '../../proto/base/log.ts';
import { HelsError, toHelsError } from '../../proto/domain/errors.ts';
import type { Group } from '../cluster/group.ts';
import { loanBlockTokensOf } from '../profiler/plan-input.ts';
import type { ClusterEvents } from './cluster-events.ts';
import { describeDevices, type LoadedGroup } from './deployment-run.ts';
import type { GroupWorker } from './group-worker.ts';
import { deviceKindsOf } from './kv-migration.ts';
import { releaseRanks } from './load-plan.ts';
import type { MeasurementStore } from './measurement-store.ts';
import type { PredictionTracker } from './prediction-tracker.ts';
import { storedLinks } from './probe-links.ts';
import { type ProfileRun, storedProfile } from './profile-workers.ts';
import { reservedAnew } from './reserved-bytes.ts';

export interface NewcomersOptions {
  coordinator: {
    readonly group: Group;
    readonly serving: { loaded: LoadedGroup } | null;
    availableWorkers(): GroupWorker[];
    replaceCandidates(of: LoadedGroup, by: LoadedGroup): boolean;
  };
  store: MeasurementStore;
  term: number;
  tracker: Pick<PredictionTracker, 'joined'>;
  events: Pick<ClusterEvents, 'tell'>;
  clock: Clock;
  log: Logger;
}

/** After a worker or the store did not answer. */
const retryMs = 10_000;
/** Lives remembered; of older ones the same may be told again. */
const toldMax = 256;
const later =
  'joined; it cannot be planned with just these others, or was never measured with them: it takes part from the next deployment on';

const lifeOf = ({ id, incarnation }: { id: string; incarnation: string }) => `${id} ${incarnation}`;

/** Those whose lives are not among the candidates'. Who serves is none, nor who a trial has found to be of no use. */
function newcomersOf(
  { candidates, workers, planRequest }: LoadedGroup,
  available: readonly GroupWorker[],
): GroupWorker[] {
  const known = new Set(candidates.map(lifeOf));
  const serving = new Set(workers.map(({ id }) => id));
  const planned = new Set(planRequest.devices.map(({ id }) => id));
  const leftOut = new Set(candidates.map(({ id }) => id).filter((id) => !planned.has(id)));
  return available.filter(
    (worker) => !(known.has(lifeOf(worker)) || serving.has(worker.id) || leftOut.has(worker.id)),
  );
}

/**
 * The group with the newcomers among its candidates; null when they, or just this set of workers, were never measured, or when they cannot
 * lend as is asked.
 */
export async function withNewcomers(
  loaded: LoadedGroup,
  available: readonly GroupWorker[],
  store: MeasurementStore,
): Promise<LoadedGroup | null> {
  const { profiledSizes, planRequest, candidates } = loaded;
  const { model, workload, devices } = planRequest;
  const newcomers = newcomersOf(loaded, available);
  const links = await storedLinks(available, model, store);
  if (links === null) return null;
  const profiles = new Map<string, ProfileRun>();
  for (const worker of newcomers) {
    const run = await storedProfile(worker, { model, ...profiledSizes, smallerToo: true }, store);
    if (run === null) return null;
    profiles.set(worker.id, run);
  }
  const lends = workload.allowRemoteKv === true;
  const staying = devices.filter(({ id }) => !profiles.has(id));
  const former = { ...planRequest, lends, ranks: devices.length };
  const next = { ...former, ranks: staying.length + newcomers.length };
  const described = await describeDevices(newcomers, profiles, links, next);
  // A trial's links hold more than sums.
  const corrected = loaded.trialRatios.size > 0;
  const linkOf = ({ id, link }: (typeof devices)[number]) =>
    corrected ? link : (links.get(id) ?? link);
  const stay = reservedAnew(staying, deviceKindsOf(candidates), former, next).map((device) => ({
    ...device,
    link: linkOf(device),
  }));
  const kinds = new Set([...stay, ...described].map(loanBlockTokensOf));
  if (lends && kinds.size > 1) return null;
  return {
    ...loaded,
    candidates: [...candidates.filter(({ id }) => !profiles.has(id)), ...newcomers],
    planRequest: { ...planRequest, devices: [...stay, ...described] },
    profiles: new Map([...loaded.profiles, ...profiles]),
  };
}

export class Newcomers {
  readonly #options: NewcomersOptions;
  /** The moment that was looked at last: again only when somebody comes or goes, or another plan serves. */
  #looked = '';
  #looking = false;
  #nextLookMs = 0;
  /** What was told of each life last. */
  readonly #told = new Map<string, string>();

  constructor(options: NewcomersOptions) {
    this.#options = options;
  }

  /** To be called often. */
  tick(): void {
    const { coordinator, clock } = this.#options;
    const loaded = coordinator.serving?.loaded;
    if (this.#looking || loaded === undefined || coordinator.group.phase !== 'ready') return;
    if (clock.nowMs() < this.#nextLookMs) return;
    const available = coordinator.availableWorkers();
    if (newcomersOf(loaded, available).length === 0) return;
    const moment = `${coordinator.group.epoch}: ${available.map(lifeOf).sort().join(', ')}`;
    if (moment === this.#looked) return;
    this.#looked = moment;
    void this.#admit(loaded, available);
  }

  /** Never rejects. */
  async #admit(loaded: LoadedGroup, available: readonly GroupWorker[]): Promise<void> {
    const { coordinator, store, term, tracker, clock, log } = this.#options;
    const newcomers = newcomersOf(loaded, available);
    this.#looking = true;
    try {
      // What one holds for an epoch of which it has not heard the end would lack in the plan.
      const fence = { term, epoch: loaded.shardPlan.epoch };
      const { unreachable, late } = await releaseRanks(newcomers, fence);
      const [silent] = [...unreachable, ...late];
      if (silent !== undefined) {
        throw new HelsError('unreachable', `worker '${silent.id}' does not answer`);
      }
      const next = await withNewcomers(loaded, available, store);
      if (next === null) {
        this.#tell(newcomers, later);
      } else if (coordinator.replaceCandidates(loaded, next)) {
        for (const { id } of newcomers) {
          const run = next.profiles.get(id);
          if (run !== undefined) tracker.joined(id, run.fit);
        }
        this.#tell(newcomers, 'joined; the next plan may use it');
      }
    } catch (error) {
      const { message } = toHelsError(error);
      log.warn('a worker that joined could not be looked at', { error: message });
      this.#looked = '';
      this.#nextLookMs = clock.nowMs() + retryMs;
    } finally {
      this.#looking = false;
    }
  }

  /** Once of each life, unless it becomes another. */
  #tell(newcomers: readonly GroupWorker[], how: string): void {
    for (const worker of newcomers) {
      const life = lifeOf(worker);
      if (this.#told.get(life) === how) continue;
      this.#told.delete(life);
      this.#told.set(life, how);
      if (this.#told.size > toldMax) this.#told.delete([...this.#told.keys()][0] ?? '');
      this.#options.events.tell('joined', worker.id, `worker '${worker.id}' ${how}`);
    }
  }
}
