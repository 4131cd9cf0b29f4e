/**
 * Workers that join while a model is served become candidates of the next plan, where all that a plan needs of them is in the store: their
 * lines, and the links of everybody that would be there. Nothing is measured while requests run; who was never measured waits for the next
 * deployment.
 */
import type { Logger } from '../../proto/base/log.ts';
import { toHelsError } from '../../proto/domain/errors.ts';
import type { Group } from '../cluster/group.ts';
import { describeDevices, engineSizes, type LoadedGroup } from './deployment-run.ts';
import type { GroupWorker } from './group-worker.ts';
import { releaseRanks } from './load-plan.ts';
import type { MeasurementStore } from './measurement-store.ts';
import { storedLinks } from './probe-links.ts';
import { type ProfileRun, storedProfile } from './profile-workers.ts';

export interface NewcomersOptions {
  coordinator: {
    readonly group: Group;
    readonly serving: { loaded: LoadedGroup } | null;
    availableWorkers(): GroupWorker[];
    replaceCandidates(of: LoadedGroup, by: LoadedGroup): void;
  };
  store: MeasurementStore;
  term: number;
  tell: (kind: string, workerId: string, message: string, payBackSeconds: number) => void;
  log: Logger;
}

const lifeOf = ({ id, incarnation }: { id: string; incarnation: string }) => `${id} ${incarnation}`;

/** Those whose lives are not among the candidates'. */
function newcomersOf(
  { candidates }: Pick<LoadedGroup, 'candidates'>,
  available: readonly GroupWorker[],
): GroupWorker[] {
  const known = new Set(candidates.map(lifeOf));
  return available.filter((worker) => !known.has(lifeOf(worker)));
}

/** The group with the newcomers among its candidates; null when something of them was never measured. */
export async function withNewcomers(
  loaded: LoadedGroup,
  available: readonly GroupWorker[],
  store: MeasurementStore,
): Promise<LoadedGroup | null> {
  const { model, workload, devices } = loaded.planRequest;
  const { stepTokensMax } = engineSizes;
  const newcomers = newcomersOf(loaded, available);
  const links = await storedLinks(available, model, store);
  if (links === null) return null;
  const profiles = new Map<string, ProfileRun>();
  for (const worker of newcomers) {
    const run = await storedProfile(worker, { model, stepTokensMax }, store);
    if (run === null) return null;
    profiles.set(worker.id, run);
  }
  const lends = workload.allowRemoteKv === true;
  const described = await describeDevices(newcomers, model, profiles, links, lends);
  const stay = devices
    .filter(({ id }) => !profiles.has(id))
    .map((device) => ({ ...device, link: links.get(device.id) ?? device.link }));
  return {
    ...loaded,
    candidates: [...loaded.candidates.filter(({ id }) => !profiles.has(id)), ...newcomers],
    planRequest: { ...loaded.planRequest, devices: [...stay, ...described] },
    profiles: new Map([...loaded.profiles, ...profiles]),
  };
}

export class Newcomers {
  readonly #options: NewcomersOptions;
  /** The moment that was looked at last: again only when somebody comes or goes, or another plan serves. */
  #looked = '';
  #looking = false;

  constructor(options: NewcomersOptions) {
    this.#options = options;
  }

  /** To be called often. */
  tick(): void {
    const { coordinator } = this.#options;
    const loaded = coordinator.serving?.loaded;
    if (this.#looking || loaded === undefined || coordinator.group.phase !== 'ready') return;
    const available = coordinator.availableWorkers();
    if (newcomersOf(loaded, available).length === 0) return;
    const moment = `${coordinator.group.epoch}: ${available.map(lifeOf).sort().join(', ')}`;
    if (moment === this.#looked) return;
    this.#looked = moment;
    void this.#admit(loaded, available);
  }

  /** Never rejects. */
  async #admit(loaded: LoadedGroup, available: readonly GroupWorker[]): Promise<void> {
    const { coordinator, store, term, tell, log } = this.#options;
    const newcomers = newcomersOf(loaded, available);
    this.#looking = true;
    try {
      // What one holds for an epoch of which it has not heard the end would lack in the plan.
      await releaseRanks(newcomers, { term, epoch: loaded.shardPlan.epoch });
      const next = await withNewcomers(loaded, available, store);
      const how =
        next === null
          ? 'joined; it was never measured together with these others, so it takes part from the next deployment on'
          : 'joined; the next plan may use it';
      for (const { id } of newcomers) tell('joined', id, `worker '${id}' ${how}`, 0);
      if (next !== null) coordinator.replaceCandidates(loaded, next);
    } catch (error) {
      log.warn('a worker that joined cannot be planned with', {
        error: toHelsError(error).message,
      });
    } finally {
      this.#looking = false;
    }
  }
}
