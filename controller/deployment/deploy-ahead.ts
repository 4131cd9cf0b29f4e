/**
 * What can be known of a deployment while what is served goes on: whether its files are whole, workers enough are there and a split of the
 * kind that is asked for can hold it. Only one is looked at: a later one takes its place.
 */
import { HelsError, toHelsError } from '../../proto/domain/errors.ts';
import type { DeployEvent } from '../../proto/gen/hels/v1/DeployEvent.ts';
import type { PlanReport } from '../../proto/gen/hels/v1/PlanReport.ts';
import type { DeploymentRequest } from '../cluster/group.ts';
import type { Inherited } from './attempt.ts';
import {
  choosesFreely,
  planRequestFor,
  profiledDevice,
  reservedForOf,
  workloadOf,
} from './deployment-run.ts';
import { engineSizesOf } from './engine-sizes.ts';
import type { GroupWorker } from './group-worker.ts';
import type { PlanRequest } from './make-plan.ts';
import type { MeasurementStore } from './measurement-store.ts';
import { PhaseChannel } from './phase-channel.ts';
import type { MakePlan } from './plan-thread.ts';
import { storedLinks } from './probe-links.ts';
import { type ProfileRun, storedProfile } from './profile-workers.ts';
import { readServedFiles, type ServedFiles } from './served-files.ts';
import type { WorkerRegistry } from './worker-registry.ts';

const workersTimeoutMsDefault = 60_000;

export interface DeployAheadOptions {
  registry: Pick<WorkerRegistry, 'waitForAvailable'>;
  store: MeasurementStore;
  makePlan: MakePlan;
  /** Something is served, which the deployment would disturb. */
  serves: () => boolean;
  /** Those that a plan may use now. */
  available: () => GroupWorker[];
}

type Fit = Pick<ProfileRun['fit'], 'decode' | 'prefill'>;

/**
 * Of a split by hand, and of policies that find one wherever there is one, memory alone says whether it fits. But for blocks that wait in
 * host memory: whether they have room on every rank with heads depends on which ranks these are.
 */
const anyLine = [{ perHeadGroup: 1e-3, perFfnColumn: 1e-6, perVocabRow: 1e-7 }];
const noLink = { constant: 0, perToken: 0 };

/**
 * What there is no plan for if there is none for the deployment: of devices whose memory is all free, with the lines that it would be planned
 * with where they matter. `fit` null: the worker was never measured for such steps; returns null where nothing is certain then.
 */
export function planRequestAhead(
  request: DeploymentRequest,
  files: ServedFiles,
  measured: readonly { worker: Pick<GroupWorker, 'id' | 'device'>; fit: Fit | null }[],
  links: Awaited<ReturnType<typeof storedLinks>>,
): PlanRequest | null {
  const isMeasured = links !== null && measured.every(({ fit }) => fit !== null);
  const parks = measured.some(({ worker }) => worker.device.hostMemoryBytes > 0);
  const byMemoryAlone = request.ranks.length > 0 || (choosesFreely(request) && !parks);
  if (!byMemoryAlone && !isMeasured) return null;
  const reserved = reservedForOf(request, files.spec, measured.length);
  const devices = measured.map(({ worker: { id, device }, fit }) => {
    const idle = { id, device: { ...device, memoryFreeBytes: device.memoryBytes } };
    const lines = fit ?? { decode: anyLine, prefill: anyLine };
    return profiledDevice(idle, lines, links?.get(id) ?? noLink, reserved);
  });
  return planRequestFor(0, request, files, devices, false);
}

/** What the caller of a deployment gets that `by` takes the place of. */
export function superseded(by: DeploymentRequest): HelsError {
  const message = `another deployment took its place: deploying ${by.modelPath}`;
  return new HelsError('cancelled', message);
}

export class DeployAhead {
  readonly #options: DeployAheadOptions;
  #current: AbortController | null = null;

  constructor(options: DeployAheadOptions) {
    this.#options = options;
  }

  /** Reports what it waits for; its result is for the attempt that follows. Throws what the attempt would, as far as it can be known. */
  async *check(
    request: DeploymentRequest,
    workersTimeoutMs: number,
    signal: AbortSignal,
  ): AsyncGenerator<DeployEvent, Inherited, undefined> {
    this.end(superseded(request));
    const current = new AbortController();
    this.#current = current;
    const either = AbortSignal.any([signal, current.signal]);
    const timeoutMs = workersTimeoutMs > 0 ? workersTimeoutMs : workersTimeoutMsDefault;
    let files: ServedFiles;
    try {
      files = await readServedFiles(request.modelPath, request.modelId, request);
      yield* this.#checkFiles(request, files, timeoutMs, either);
    } catch (error) {
      throw toHelsError(error);
    } finally {
      if (this.#current === current) this.#current = null;
    }
    const channel = new PhaseChannel<PlanReport>();
    const settleMs = Number.POSITIVE_INFINITY;
    return { channel, files, workersTimeoutMs: timeoutMs, settleMs, corrections: null };
  }

  /** Closes the files unless they are good. */
  async *#checkFiles(
    request: DeploymentRequest,
    files: ServedFiles,
    timeoutMs: number,
    signal: AbortSignal,
  ): AsyncGenerator<DeployEvent, void, undefined> {
    let isGood = false;
    try {
      if (this.#options.serves()) yield* this.#sparing(request, files, timeoutMs, signal);
      signal.throwIfAborted();
      isGood = true;
    } finally {
      if (!isGood) await files.text.close();
    }
  }

  /** A deployment is being looked at. */
  get isBusy(): boolean {
    return this.#current !== null;
  }

  /** Whoever waits for its check gets the error. */
  end(error: HelsError): void {
    this.#current?.abort(error);
  }

  async *#sparing(
    request: DeploymentRequest,
    files: ServedFiles,
    timeoutMs: number,
    signal: AbortSignal,
  ): AsyncGenerator<DeployEvent, void, undefined> {
    const { registry, store, makePlan, available } = this.#options;
    const { workersMin } = request;
    if (available().length < workersMin) {
      const message = `for ${workersMin} workers; what is served goes on meanwhile`;
      yield { progress: { phase: 'waiting', message, fraction: 0 } };
    }
    await registry.waitForAvailable(workersMin, timeoutMs, signal);
    const workers = available();
    const model = files.spec;
    const sizes = { model, ...engineSizesOf(workloadOf(request, model)) };
    const measured = await Promise.all(
      workers.map(async (worker) => {
        const run = await storedProfile(worker, sizes, store);
        return { worker, fit: run?.fit ?? null };
      }),
    );
    const links = await storedLinks(workers, model, store);
    const planRequest = planRequestAhead(request, files, measured, links);
    if (planRequest !== null) await makePlan(planRequest);
  }
}
