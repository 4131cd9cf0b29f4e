/** Re-plans as the API asks for them: the proposal first, then progress, then what became of it. */
import { modelDigest } from '../../proto/base/model-files.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import type { ReplanEvent } from '../../proto/gen/hels/v1/ReplanEvent.ts';
import type { Coordinator } from './coordinator.ts';
import type { MakePlan } from './plan-thread.ts';
import type { ReplanLog } from './replan-log.ts';
import {
  draftReplan,
  type Proposal,
  type Proposing,
  proposalOf,
  type ReplanWish,
} from './replan-proposal.ts';
import { predictedPauseOf, type ReplanTrigger } from './replanning.ts';

export interface ReplanServiceOptions {
  coordinator: Coordinator;
  log: ReplanLog;
  /** Devices with their lines as refined in service. */
  refine: Proposing['refine'];
  /** Throws plan-infeasible and config-invalid. */
  makePlan: MakePlan;
}

export class ReplanService {
  readonly #options: ReplanServiceOptions;

  constructor(options: ReplanServiceOptions) {
    this.#options = options;
  }

  /** What a re-plan would be now. Throws not-ready unless a model is served undisturbed, until the plan is made; plan-infeasible, config-invalid as a deployment. */
  async propose(wish: ReplanWish): Promise<Proposal> {
    const { coordinator } = this.#options;
    const { request } = coordinator.group;
    for (;;) {
      const proposal = await this.#tryPropose(wish);
      if (proposal !== null) return proposal;
      // Another plan may have come and serve the same; whoever wants another request is the newer wish.
      if (coordinator.group.phase !== 'ready' || coordinator.group.request !== request) {
        throw new HelsError('not-ready', 'what is served has changed while it was planned anew');
      }
    }
  }

  /** null: what is served has changed meanwhile. */
  async #tryPropose(wish: ReplanWish): Promise<Proposal | null> {
    const { coordinator, refine, makePlan } = this.#options;
    const { phase, request, detail } = coordinator.group;
    const { serving } = coordinator;
    if (phase !== 'ready' || serving === null || request === null) {
      const why = detail === '' ? phase : `${phase}: ${detail}`;
      throw new HelsError('not-ready', `a re-plan needs a model that is being served; now: ${why}`);
    }
    const { loaded } = serving;
    const available = coordinator.availableWorkers();
    const draft = draftReplan({ loaded, request, wish, available, refine });
    const made = await makePlan(draft.planRequest);
    const { group } = coordinator;
    const isSame = coordinator.serving?.loaded === loaded && group.request === request;
    return isSame && group.phase === 'ready' ? proposalOf(draft, made) : null;
  }

  /** Seconds for which the requests would wait or be computed again. */
  pauseOf(proposal: Proposal) {
    const { coordinator, log } = this.#options;
    if (coordinator.serving === null) throw new HelsError('not-ready', 'nothing is being served');
    return predictedPauseOf(proposal, coordinator.serving, log.pauseRatio);
  }

  /** Resolves when the move has begun. */
  apply(proposal: Proposal, trigger: ReplanTrigger) {
    return this.#options.coordinator.replan(proposal, trigger);
  }

  /** Throws digest-mismatch: what the workers would find out when the requests wait already. Known files are only looked at, not read again. */
  async checkFiles(): Promise<void> {
    const plan = this.#options.coordinator.serving?.loaded.shardPlan;
    if (plan === undefined) return;
    const digest = await modelDigest(plan.modelPath);
    if (digest === plan.modelDigest) return;
    throw new HelsError(
      'digest-mismatch',
      `${plan.modelPath} has digest ${digest}; what is being served was loaded from files with ${plan.modelDigest}; deploy it again`,
      { field: 'model' },
    );
  }

  async *run(wish: ReplanWish): AsyncGenerator<ReplanEvent, void, undefined> {
    const { coordinator } = this.#options;
    await this.checkFiles();
    const proposal = await this.propose(wish);
    const current = coordinator.report();
    const { equal, made, currentSeconds, plannedSeconds } = proposal;
    const told = {
      current: current.plan ?? null,
      plan: made.shardPlan,
      equal,
      currentDecodeSeconds: currentSeconds,
      plannedDecodeSeconds: plannedSeconds,
      predicted: this.pauseOf(proposal),
    };
    if (equal) {
      coordinator.keepPlan(proposal);
      yield { proposal: told };
      yield { done: { replan: null, report: current } };
      return;
    }
    const replanning = await this.apply(proposal, 'operator');
    yield { proposal: told };
    for await (const event of replanning.channel) {
      if ('progress' in event) yield event;
      else yield { done: { replan: event.ready, report: coordinator.report() } };
    }
  }
}
