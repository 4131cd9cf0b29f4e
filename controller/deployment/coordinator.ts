/** Carries out what controller/cluster decides: the edge between its pure machines and workers, engine and store. */
import type { ChannelCredentials } from '@grpc/grpc-js';
import type { Clock } from '../../proto/base/clock.ts';
import type { Logger } from '../../proto/base/log.ts';
import { HelsError, toHelsError } from '../../proto/domain/errors.ts';
import type { DeployEvent } from '../../proto/gen/hels/v1/DeployEvent.ts';
import type { PlanReport } from '../../proto/gen/hels/v1/PlanReport.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { ServedModel } from '../api/generation-service.ts';
import {
  applyGroupEvent,
  type DeploymentRequest,
  type Group,
  type GroupEffect,
  type GroupEvent,
  initialGroup,
} from '../cluster/group.ts';
import type { Corrections } from './corrections.ts';
import type { LoadedGroup, RunPorts } from './deployment-run.ts';
import { runDeployment } from './deployment-run.ts';
import { byHost, type GroupWorker } from './group-worker.ts';
import { releaseRanks } from './load-plan.ts';
import type { MeasurementStore } from './measurement-store.ts';
import { PhaseChannel } from './phase-channel.ts';
import { type MeasuredSteps, plannedRanksOf, planReportOf } from './plan-report.ts';
import { readServedFiles, type ServedFiles } from './served-files.ts';
import { judgeTrial } from './trial.ts';
import { WorkerClient } from './worker-client.ts';
import type { WorkerRegistry } from './worker-registry.ts';

/** A loaded group in the engine: warmed up, then attached to the APIs, until closed. */
export interface EngineGroup {
  warmUp(sequences: number): Promise<MeasuredSteps>;
  attach(): void;
  /** Every request ends with the error; the step streams close. */
  close(error: HelsError): Promise<void>;
}

export type OpenEngineGroup = (
  group: LoadedGroup,
  term: number,
  onFailed: (error: HelsError) => void,
) => EngineGroup;

/** What outlives the process. */
export interface DeploymentStore {
  saveDeployment(request: DeploymentRequest | null): Promise<void>;
  savePlan(plan: ShardPlan__Output): Promise<void>;
}

export interface CoordinatorOptions {
  term: number;
  /** Epochs go on from here. */
  lastEpoch: number;
  registry: WorkerRegistry;
  store: DeploymentStore & MeasurementStore;
  openGroup: OpenEngineGroup;
  credentials: ChannelCredentials;
  clock: Clock;
  log: Logger;
}

const workersTimeoutMsDefault = 60_000;

/** These may leave devices out, so what is learnt in service can change what they choose. */
const choosingPolicies: ReadonlySet<string> = new Set(['hels', 'optimal']);

/** Nobody waits: the attempt reads the files itself, and gives workers all the time they need. */
const nothingInherited = (): Inherited => ({
  channel: new PhaseChannel<PlanReport>(),
  files: null,
  workersTimeoutMs: Number.POSITIVE_INFINITY,
  corrections: null,
});

/** The attempt under way or the group being served. */
interface Attempt {
  epoch: number;
  abort: AbortController;
  channel: PhaseChannel<PlanReport>;
  files: ServedFiles | null;
  loaded: LoadedGroup | null;
  engineGroup: EngineGroup | null;
  report: PlanReport | null;
  workersTimeoutMs: number;
  createdUnixSeconds: number;
  /** Of the trial that this attempt follows; null for the first. */
  corrections: Corrections | null;
}

/** What an attempt takes over from the caller that waits for it or from the attempt before. */
type Inherited = Pick<Attempt, 'channel' | 'files' | 'workersTimeoutMs' | 'corrections'>;

export class Coordinator {
  readonly #options: CoordinatorOptions;
  readonly #clients = new Map<string, WorkerClient>();
  #group: Group;
  #attempt: Attempt | null = null;
  /** For the next start-deployment effect. */
  #inherited: Inherited | null = null;
  #ending: Promise<void> = Promise.resolve();

  constructor(options: CoordinatorOptions) {
    this.#options = options;
    this.#group = initialGroup(options.lastEpoch);
  }

  get group(): Group {
    return this.#group;
  }

  /** The model being served; null while there is none. */
  get served(): ServedFiles | null {
    return this.#group.phase === 'ready' ? (this.#attempt?.files ?? null) : null;
  }

  get servedModel(): ServedModel | null {
    const { served } = this;
    const createdUnixSeconds = this.#attempt?.createdUnixSeconds ?? 0;
    return served === null
      ? null
      : { modelId: served.modelId, text: served.text, createdUnixSeconds };
  }

  /** Those that answer heartbeats now. */
  aliveWorkers(): GroupWorker[] {
    const alive = this.#options.registry.members().filter(({ state }) => state === 'alive');
    return alive.map((member) => ({ ...member, client: this.#clientOf(member.address) }));
  }

  /** Throws not-ready without a plan being served. */
  report(): PlanReport {
    const report = this.#attempt?.report ?? null;
    if (report === null) {
      throw new HelsError('not-ready', `no plan is being served${this.#why()}`);
    }
    return report;
  }

  /** Checks the model first, so that a mistake does not disturb what is being served; then replaces it. */
  async *deploy(
    request: DeploymentRequest,
    workersTimeoutMs: number,
    signal: AbortSignal,
  ): AsyncGenerator<DeployEvent, void, undefined> {
    const files = await readServedFiles(request.modelPath, request.modelId, request);
    const channel = new PhaseChannel<PlanReport>();
    const timeoutMs = workersTimeoutMs > 0 ? workersTimeoutMs : workersTimeoutMsDefault;
    this.#inherited = { channel, files, workersTimeoutMs: timeoutMs, corrections: null };
    this.#dispatch({ type: 'deploy', request, attended: true });
    const cancel = () => {
      // A trial may have moved the caller to a later epoch.
      if (this.#attempt?.channel !== channel) return;
      const reason = 'the caller of deploy went away before it was ready';
      this.#dispatch({ type: 'deploy-failed', epoch: this.#attempt.epoch, reason });
    };
    signal.addEventListener('abort', cancel, { once: true });
    try {
      yield* channel;
    } finally {
      signal.removeEventListener('abort', cancel);
    }
  }

  /** Brings back what was deployed when the controller last ran; waits for workers as long as it takes. */
  restore(request: DeploymentRequest): void {
    this.#dispatch({ type: 'deploy', request, attended: false });
  }

  async undeploy(modelId: string): Promise<void> {
    const current = this.#attempt?.files?.modelId;
    if (current !== modelId) {
      const what = current === undefined ? 'no model is deployed' : `the model is '${current}'`;
      throw new HelsError('model-not-found', `model: '${modelId}' is not deployed; ${what}`, {
        field: 'model_id',
      });
    }
    this.#dispatch({ type: 'undeploy' });
    await this.#ending;
  }

  workerLost(id: string, incarnation: string, reason: string): void {
    this.#dispatch({ type: 'worker-lost', id, incarnation, reason });
    // What the loss has ended may still have words for the workers.
    void this.#ending.then(() => this.#closeUnusedClients());
  }

  workerJoined(): void {
    this.#dispatch({ type: 'worker-joined' });
  }

  /** Ends what runs; resolves when the workers have been told. */
  async close(reason: HelsError): Promise<void> {
    this.#endAttempt(reason);
    await this.#ending;
    for (const client of this.#clients.values()) client.close();
  }

  #why(): string {
    return this.#group.detail === '' ? '' : `: ${this.#group.detail}`;
  }

  #dispatch(event: GroupEvent): void {
    const { group, effects } = applyGroupEvent(this.#group, event);
    this.#group = group;
    for (const effect of effects) this.#execute(effect);
  }

  #execute(effect: GroupEffect): void {
    switch (effect.type) {
      case 'persist-deployment':
        this.#options.store.saveDeployment(effect.request).catch((error: unknown) => {
          this.#options.log.error('the deployment could not be stored', { error: String(error) });
        });
        return;
      case 'end-epoch':
        this.#endAttempt(new HelsError('worker-lost', effect.reason));
        return;
      case 'start-deployment':
        void this.#start(effect.epoch, effect.request);
        return;
    }
  }

  #endAttempt(error: HelsError): void {
    const attempt = this.#attempt;
    if (attempt === null) return;
    this.#attempt = null;
    attempt.abort.abort(error);
    attempt.channel.failed(error);
    const end = async () => {
      await attempt.engineGroup?.close(error);
      const fence = { term: this.#options.term, epoch: attempt.epoch };
      if (attempt.loaded !== null) await releaseRanks(attempt.loaded.workers, fence);
      await attempt.files?.text.close();
    };
    this.#ending = Promise.all([this.#ending, end()]).then(() => undefined);
  }

  async #start(epoch: number, request: DeploymentRequest): Promise<void> {
    const inherited = this.#inherited ?? nothingInherited();
    this.#inherited = null;
    const attempt: Attempt = {
      ...inherited,
      epoch,
      abort: new AbortController(),
      loaded: null,
      engineGroup: null,
      report: null,
      createdUnixSeconds: Math.floor(this.#options.clock.unixMs() / 1000),
    };
    this.#attempt = attempt;
    try {
      await this.#ending;
      await this.#bringUp(attempt, request);
    } catch (error) {
      if (this.#attempt !== attempt) return;
      const failure = toHelsError(error);
      this.#options.log.error('deployment failed', { epoch, error: failure.message });
      attempt.channel.failed(failure);
      this.#dispatch({ type: 'deploy-failed', epoch, reason: failure.message });
    }
  }

  async #bringUp(attempt: Attempt, request: DeploymentRequest): Promise<void> {
    const { epoch } = attempt;
    attempt.files ??= await readServedFiles(request.modelPath, request.modelId, request);
    const ports = this.#runPorts(attempt);
    const { term } = this.#options;
    const { files, corrections } = attempt;
    attempt.loaded = await runDeployment(epoch, term, request, files, corrections, ports);
    ports.phase('warming')('a real generation goes through every rank', 0);
    const group = this.#options.openGroup(attempt.loaded, this.#options.term, (error) =>
      this.#dispatch({ type: 'epoch-failed', epoch, reason: error.message }),
    );
    attempt.engineGroup = group;
    const sequences = attempt.loaded.input.workload.sequences;
    const measured = await group.warmUp(sequences);
    ports.phase('warming')('ready', 1);
    if (this.#replans(attempt, measured)) return;
    attempt.report = planReportOf(attempt.loaded, measured);
    group.attach();
    this.#dispatch({ type: 'serving', epoch });
    attempt.channel.ready(attempt.report);
    this.#options.log.info('serving', {
      epoch,
      model: attempt.files.modelId,
      ranks: attempt.loaded.workers.length,
      numerics: attempt.loaded.numericsClass,
    });
  }

  /** Whether another attempt takes this one's place. One trial: its successor serves. */
  #replans(attempt: Attempt, measured: MeasuredSteps): boolean {
    const { loaded, epoch } = attempt;
    if (loaded === null || attempt.corrections !== null) return false;
    if (!choosingPolicies.has(loaded.shardPlan.policy)) return false;
    const hosts = byHost(loaded.candidates).flatMap((host, index) =>
      host.map(({ id }): [string, string] => [id, String(index)]),
    );
    const corrections = judgeTrial({
      input: loaded.input,
      ranks: plannedRanksOf(loaded.shardPlan),
      measured,
      hostOf: new Map(hosts),
      nowMs: () => this.#options.clock.nowMs(),
    });
    if (corrections === null) return false;
    const { reason } = corrections;
    this.#options.log.info('planning again', { epoch, reason });
    const { channel, files, workersTimeoutMs } = attempt;
    this.#inherited = { channel, files, workersTimeoutMs, corrections };
    // They live on in the next attempt.
    attempt.channel = new PhaseChannel<PlanReport>();
    attempt.files = null;
    this.#dispatch({ type: 'replan', epoch, reason });
    return true;
  }

  #runPorts(attempt: Attempt): RunPorts {
    const { registry, clock, store } = this.#options;
    const { signal } = attempt.abort;
    return {
      phase: (name) => {
        signal.throwIfAborted();
        this.#group = { ...this.#group, detail: name };
        return (message, fraction) => {
          // Thrown to whoever measures or loads, which ends its stream: the workers are wanted for another attempt.
          signal.throwIfAborted();
          attempt.channel.progress(name, message, fraction);
        };
      },
      workers: async (count) => {
        const members = await registry.waitForAlive(count, attempt.workersTimeoutMs, signal);
        return members.map((member) => ({ ...member, client: this.#clientOf(member.address) }));
      },
      membersChosen: (workers) => {
        signal.throwIfAborted();
        this.#dispatch({
          type: 'members-chosen',
          epoch: attempt.epoch,
          members: incarnations(workers),
        });
      },
      savePlan: (plan) => store.savePlan(plan),
      store,
      nowMs: () => clock.nowMs(),
      unixMs: () => clock.unixMs(),
    };
  }

  /** A worker that comes back has another port: without this, each life of it would leave a channel behind. */
  #closeUnusedClients(): void {
    const workers = [
      ...this.#options.registry.members(),
      ...(this.#attempt?.loaded?.workers ?? []),
    ];
    const used = new Set(workers.map(({ address }) => address));
    for (const [address, client] of this.#clients) {
      if (used.has(address)) continue;
      client.close();
      this.#clients.delete(address);
    }
  }

  #clientOf(address: string): WorkerClient {
    const known = this.#clients.get(address);
    if (known !== undefined) return known;
    const { credentials, clock } = this.#options;
    const client = new WorkerClient(address, credentials, () => clock.unixMs());
    this.#clients.set(address, client);
    return client;
  }
}

function incarnations(workers: readonly GroupWorker[]): Map<string, string> {
  return new Map(workers.map(({ id, incarnation }) => [id, incarnation]));
}
