/** Carries out what controller/cluster decides: the edge between its pure machines and workers, engine and store. */
import { isDeepStrictEqual } from 'node:util';
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
  isServing,
} from '../cluster/group.ts';
import {
  type Attempt,
  closeAttempt,
  type Inherited,
  inheritedFrom,
  newAttempt,
  nothingInherited,
  openFiles,
} from './attempt.ts';
import type { CoordinatorOptions } from './coordinator-options.ts';
import { DeployAhead, superseded } from './deploy-ahead.ts';
import { choosesFreely, type LoadedGroup, runDeployment } from './deployment-run.ts';
import type { EngineGroup } from './engine-group.ts';
import { tellGroupEvent } from './group-events.ts';
import { type GroupWorker, incarnationsOf } from './group-worker.ts';
import { judgeLoaded } from './judge-loaded.ts';
import { type MeasuredSteps, nothingMeasured, planReportOf } from './plan-report.ts';
import { Remembered } from './remembered.ts';
import type { Proposal } from './replan-proposal.ts';
import { Replanning, type ReplanTrigger } from './replanning.ts';
import { runPortsOf } from './run-ports.ts';
import { modelIdOf, type ServedFiles } from './served-files.ts';
import { refuseLost, storeAhead } from './store-ahead.ts';
import { refuseUnstored, tellUnstored } from './unstored.ts';
import { WaitingRetry } from './waiting-retry.ts';
import { WorkerClients } from './worker-clients.ts';

export class Coordinator {
  readonly #options: CoordinatorOptions;
  readonly #clients: WorkerClients;
  readonly #ahead: DeployAhead;
  readonly #remembered: Remembered<DeploymentRequest | null>;
  readonly #waitingRetry = new WaitingRetry();
  #group: Group;
  #attempt: Attempt | null = null;
  /** For the next start-deployment effect. */
  #inherited: Inherited | null = null;
  #ending: Promise<void> = Promise.resolve();
  /** What served last has computed something. */
  #lastProved = true;
  /** The plan of a re-plan is being stored. */
  #storingAhead = false;

  constructor(options: CoordinatorOptions) {
    this.#options = options;
    this.#clients = new WorkerClients(options.credentials, options.clock);
    const save = (request: DeploymentRequest | null) => options.store.saveDeployment(request);
    this.#remembered = new Remembered(save, 'the deployment', options);
    this.#group = initialGroup(options.lastEpoch);
    const { registry, store, makePlan } = options;
    const serves = () => isServing(this.#group);
    const available = () => this.availableWorkers();
    this.#ahead = new DeployAhead({ registry, store, makePlan, serves, available });
  }

  get group(): Group {
    return this.#group;
  }

  /** A deployment is under way that does not disturb yet what is served. */
  get checksDeployment(): boolean {
    return this.#ahead.isBusy;
  }

  /** The model being served; null while there is none. */
  get served(): ServedFiles | null {
    return isServing(this.#group) ? (this.#attempt?.files ?? null) : null;
  }

  get servedModel(): ServedModel | null {
    const { served } = this;
    if (served === null) return null;
    const createdUnixSeconds = this.#attempt?.createdUnixSeconds ?? 0;
    return { modelId: served.modelId, text: served.text, createdUnixSeconds };
  }

  /** Those that a plan may use now. */
  availableWorkers(): GroupWorker[] {
    const available = this.#options.registry.available();
    return available.map((member) => ({ ...member, client: this.#clients.at(member.address) }));
  }

  /** Throws not-ready without a plan being served. */
  report(): PlanReport {
    const { report = null, loaded = null, engineGroup = null } = this.#attempt ?? {};
    if (report === null || loaded === null) {
      throw new HelsError('not-ready', `no plan is being served${this.#why()}`);
    }
    // A plan that came while requests ran has no warm-up; its own steps take that place.
    const measured = report.measuredSequences === 0 ? engineGroup?.measured() : null;
    return measured ? planReportOf(loaded, measured) : report;
  }

  /** What is served: a loaded group and its engine; null while there is none. */
  get serving(): { loaded: LoadedGroup; engine: EngineGroup; from: LoadedGroup } | null {
    const { loaded = null, engineGroup: engine = null } = this.#attempt ?? {};
    return loaded === null || engine === null ? null : { loaded, engine, from: loaded };
  }

  /**
   * Moves what is served to the proposed plan, which must be of this moment. Resolves when the move has begun. Throws plan-infeasible when
   * a running request cannot go on, and when the plan cannot be stored; then nothing has changed.
   */
  async replan(proposal: Proposal, trigger: ReplanTrigger): Promise<Replanning> {
    const attempt = this.#attempt;
    const { serving } = this;
    const isReady = () => this.#attempt === attempt && this.#group.phase === 'ready';
    if (attempt === null || serving === null || !isReady()) {
      throw new HelsError('not-ready', `no plan is being served${this.#why()}`);
    }
    if (this.#storingAhead) {
      throw new HelsError('not-ready', 'another change of the plan is about to begin');
    }
    const { replans, store, term, clock, log } = this.#options;
    const context = { ...serving, held: attempt.held, term, clock };
    this.#storingAhead = true;
    const replanning = await storeAhead({
      engine: serving.engine,
      current: serving.loaded.shardPlan,
      next: { ...proposal.made.shardPlan, epoch: attempt.epoch + 1 },
      savePlan: (plan) => store.savePlanAhead(plan),
      begin: () => {
        if (!isReady()) throw new HelsError('not-ready', `the plan ended meanwhile${this.#why()}`);
        refuseLost(proposal.workers, this.availableWorkers());
        return new Replanning(proposal, trigger, replans, context);
      },
    }).finally(() => {
      this.#storingAhead = false;
    });
    attempt.replanning = replanning;
    const { workers } = proposal;
    // The load of a moment is not what the deployment is for.
    const request =
      trigger === 'operator' ? proposal.request : (this.#group.request ?? proposal.request);
    const { reason } = replanning;
    log.info('planning anew', { epoch: attempt.epoch, trigger, reason });
    const members = incarnationsOf(workers);
    this.#dispatch({ type: 'replan-begun', epoch: attempt.epoch, request, members, reason });
    return replanning;
  }

  /** False: another plan has come meanwhile. */
  replaceCandidates(of: LoadedGroup, by: LoadedGroup): boolean {
    if (this.#attempt?.loaded !== of || this.#group.phase !== 'ready') return false;
    this.#attempt.loaded = by;
    return true;
  }

  /** A wish that the plan as it is fulfils: remembered as one that changes the plan is. */
  keepPlan({ request }: Proposal): void {
    if (isDeepStrictEqual(request, this.#group.request)) return;
    this.#dispatch({ type: 'request-changed', epoch: this.#group.epoch, request });
  }

  /** Checks first what can be known, so that a mistake does not disturb what is being served; then replaces it. */
  async *deploy(
    request: DeploymentRequest,
    workersTimeoutMs: number,
    signal: AbortSignal,
  ): AsyncGenerator<DeployEvent, void, undefined> {
    const inherited = yield* this.#ahead.check(request, workersTimeoutMs, signal);
    const { channel } = inherited;
    this.#inherited = inherited;
    this.#attempt?.channel.failed(superseded(request));
    this.#dispatch({ type: 'deploy', request, attended: true });
    // After what this has ended.
    this.#options.replans.forgetTrouble();
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

  /** Before anybody can deploy: brings back what was deployed last. Waits as long as it takes, or until `settleMs` after the last worker came. */
  restore(request: DeploymentRequest, settleMs: number): void {
    this.#inherited = { ...nothingInherited(), settleMs };
    this.#dispatch({ type: 'deploy', request, attended: false });
  }

  async undeploy(modelId: string): Promise<void> {
    const { request } = this.#group;
    const current =
      this.#attempt?.files?.modelId ?? (request === null ? undefined : modelIdOf(request));
    if (current !== modelId) {
      const what = current === undefined ? 'no model is deployed' : `the model is '${current}'`;
      throw new HelsError('model-not-found', `model: '${modelId}' is not deployed; ${what}`, {
        field: 'model_id',
      });
    }
    this.#dispatch({ type: 'undeploy' });
    const [, failure] = await Promise.all([this.#ending, this.#remembered.settled()]);
    refuseUnstored(modelId, failure);
  }

  workerLost(id: string, incarnation: string, reason: string): void {
    this.#dispatch({ type: 'worker-lost', id, incarnation, reason });
    // What the loss has ended may still have words for the workers.
    void this.#ending.then(() => {
      const { workers = [] } = this.#attempt?.loaded ?? {};
      const used = [...this.#options.registry.members(), ...workers];
      this.#clients.closeAllBut(used.map(({ address }) => address));
    });
  }

  workerJoined(): void {
    this.#dispatch({ type: 'worker-joined' });
  }

  /** Tries again what has failed for want of something that may be there now. */
  tick(): void {
    this.#remembered.tick();
    if (this.#group.phase === 'ready') this.#attempt?.engineGroup?.proveIdle();
    const due = this.#waitingRetry.isDue(this.#group, this.#options.clock.nowMs());
    if (due) this.#dispatch({ type: 'retry-due' });
  }

  /** Ends what runs; resolves when the workers have been told. */
  async close(reason: HelsError): Promise<void> {
    this.#ahead.end(reason);
    this.#endAttempt(reason);
    await this.#ending;
    this.#clients.closeAllBut([]);
  }

  #why(): string {
    return this.#group.detail === '' ? '' : `: ${this.#group.detail}`;
  }

  #dispatch(event: GroupEvent): void {
    const { group, effects } = applyGroupEvent(this.#group, event);
    tellGroupEvent(this.#options.events, this.#group, event, group);
    this.#group = group;
    for (const effect of effects) this.#execute(effect);
  }

  #execute(effect: GroupEffect): void {
    switch (effect.type) {
      case 'persist-deployment':
        this.#remembered.save(effect.request);
        return;
      case 'end-epoch':
        this.#endAttempt(new HelsError('worker-lost', effect.reason));
        return;
      case 'start-deployment':
        void this.#start(effect.epoch, effect.request);
        return;
      case 'start-replan':
        void this.#startReplan(effect.epoch, effect.back);
        return;
    }
  }

  #endAttempt(error: HelsError): void {
    const attempt = this.#attempt;
    if (attempt === null) return;
    this.#attempt = null;
    if (attempt.report !== null) this.#lastProved = attempt.engineGroup?.isProved ?? false;
    attempt.abort.abort(error);
    attempt.channel.failed(error);
    attempt.replanning?.failed(error);
    const { term, registry } = this.#options;
    const end = closeAttempt(attempt, error, term, registry.members());
    this.#ending = Promise.all([this.#ending, end]).then(() => undefined);
  }

  async #start(epoch: number, request: DeploymentRequest): Promise<void> {
    const inherited = this.#inherited ?? nothingInherited();
    this.#inherited = null;
    const attempt = newAttempt(epoch, inherited, this.#options.clock.unixMs());
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
    const files = await openFiles(attempt, request);
    const { term } = this.#options;
    const ports = runPortsOf(attempt, this.#options, this.#clients, {
      detail: (name) => {
        this.#group = { ...this.#group, detail: name };
      },
      membersChosen: (workers) => {
        attempt.chosen = workers;
        this.#dispatch({ type: 'members-chosen', epoch, members: incarnationsOf(workers) });
      },
    });
    const { corrections } = attempt;
    attempt.loaded = await runDeployment(epoch, term, request, files, corrections, ports);
    // Throws before anything is opened that nobody would close.
    const warming = ports.phase('warming');
    for (const { id } of attempt.loaded.workers) attempt.held.set(id, epoch);
    const group = this.#options.openGroup(attempt.loaded, this.#options.term, (error) =>
      this.#dispatch({ type: 'epoch-failed', epoch: attempt.epoch, reason: error.message }),
    );
    attempt.engineGroup = group;
    const { sequences } = attempt.loaded.input.workload;
    // Requests that wait prove the ranks as well as a made-up one, as they do under a changed plan; not twice in a row, if they do not.
    const isAwaited = () => group.isAwaited && !this.#group.attended;
    const atOnce = isAwaited() && this.#lastProved;
    warming(atOnce ? 'requests wait for it' : 'a real generation goes through every rank', 0);
    const measured = atOnce ? nothingMeasured : await group.warmUp(sequences);
    warming('ready', 1);
    if (!isAwaited() && this.#replans(attempt, measured)) return;
    attempt.report = planReportOf(attempt.loaded, measured);
    group.attach();
    this.#dispatch({ type: 'serving', epoch });
    tellUnstored(attempt.channel, await this.#remembered.settled());
    attempt.channel.ready(attempt.report);
    this.#options.log.info('serving', {
      epoch,
      model: files.modelId,
      ranks: attempt.loaded.workers.length,
      numerics: attempt.loaded.numericsClass,
    });
  }

  /** To the proposed plan, or back to the one before. Only one of them is under way: a later one ends what an earlier still does. */
  async #startReplan(epoch: number, back: boolean): Promise<void> {
    const attempt = this.#attempt;
    const replanning = attempt?.replanning ?? null;
    if (attempt === null || replanning === null) return;
    attempt.epoch = epoch;
    // A loss ends the way to the new plan from outside.
    if (back) replanning.undo(new HelsError('worker-lost', this.#group.detail));
    const { store, log } = this.#options;
    const phase = (name: string) => {
      if (this.#attempt === attempt && attempt.epoch === epoch)
        this.#group = { ...this.#group, detail: name };
    };
    const stored = (plan: ShardPlan__Output) => {
      store.savePlan(plan).catch((error: unknown) => {
        log.error('the plan could not be stored', { epoch, error: String(error) });
      });
    };
    try {
      attempt.loaded = await replanning.move(epoch, back, phase, stored);
      const { loaded } = attempt;
      attempt.replanning = null;
      attempt.report = planReportOf(loaded, attempt.engineGroup?.measured() ?? nothingMeasured);
      this.#dispatch({ type: 'serving', epoch });
      replanning.served();
      log.info('serving', { epoch, ranks: loaded.workers.length, kv: replanning.kv });
    } catch (error) {
      if (this.#attempt !== attempt || attempt.epoch !== epoch) return;
      const { message } = toHelsError(error);
      log.error('a re-plan failed', { epoch, back, error: message });
      replanning.undo(toHelsError(error));
      this.#dispatch({ type: 'replan-failed', epoch, reason: message });
    }
  }

  /** Whether another attempt takes this one's place. One trial: its successor serves. Not while requests wait, and nobody else: it may load twice. */
  #replans(attempt: Attempt, measured: MeasuredSteps): boolean {
    const { loaded, epoch } = attempt;
    const { request } = this.#group;
    if (loaded === null || attempt.corrections !== null) return false;
    if (request === null || !choosesFreely(request)) return false;
    const corrections = judgeLoaded(loaded, measured, () => this.#options.clock.nowMs());
    if (corrections === null) return false;
    const { reason } = corrections;
    this.#options.log.info('planning again', { epoch, reason });
    this.#inherited = inheritedFrom(attempt, corrections);
    this.#dispatch({ type: 'replan', epoch, reason });
    return true;
  }
}
