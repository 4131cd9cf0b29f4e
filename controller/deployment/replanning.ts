/** One re-plan from its beginning to its end: the move to the new plan and, when that fails, the one back. */
import type { Clock } from '../../proto/base/clock.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import type { PredictedPause__Output } from '../../proto/gen/hels/v1/PredictedPause.ts';
import type { Replan__Output } from '../../proto/gen/hels/v1/Replan.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import { planDevices } from '../profiler/plan-input.ts';
import type { LoadedGroup } from './deployment-run.ts';
import type { EngineGroup } from './engine-group.ts';
import type { GroupWorker } from './group-worker.ts';
import { deviceKindsOf, keptKvOf, keptRoomOf, survivalOf } from './kv-migration.ts';
import { type HeldEpochs, releaseRanks } from './load-plan.ts';
import { type Moved, type MoveTarget, moveGroup } from './move-group.ts';
import { predictPause } from './pause-prediction.ts';
import { PhaseChannel } from './phase-channel.ts';
import type { ReplanLog } from './replan-log.ts';
import type { Proposal } from './replan-proposal.ts';

/** Who wanted it: a person, or the controller because of the load and the lines. */
export type ReplanTrigger = 'operator' | 'load';

/** Of the group that is served. */
export interface ReplanContext {
  readonly from: LoadedGroup;
  readonly engine: EngineGroup;
  readonly held: HeldEpochs;
  readonly term: number;
  readonly clock: Clock;
}

const milliseconds = (seconds: number) => `${(1000 * seconds).toFixed(1)} ms`;
const gainOf = ({ currentSeconds, plannedSeconds }: Proposal) =>
  Number.isFinite(currentSeconds) && currentSeconds > 0 ? 1 - plannedSeconds / currentSeconds : 0;

/** Workers that only the plan of before has. */
function leavingOf({ workers }: Proposal, from: LoadedGroup): string {
  const staying = new Set(workers.map(({ id }) => id));
  const leaving = from.workers.filter(({ id }) => !staying.has(id));
  return leaving.map(({ id }) => id).join(', ');
}

/** What moving to the proposed plan would cost now. */
export function predictedPauseOf(
  { made, candidates }: Proposal,
  { from, engine }: Pick<ReplanContext, 'from' | 'engine'>,
  ratio: number,
): PredictedPause__Output {
  const kinds = deviceKindsOf([...from.workers, ...candidates]);
  const survival = survivalOf(from.shardPlan, made.shardPlan, kinds);
  const held = engine.kvInUse();
  const room = keptRoomOf(held, from.shardPlan, made.shardPlan, survival);
  const kept = keptKvOf(held, room, from.shardPlan.kvBlockTokens);
  return predictPause({ from, to: made, kept, ratio });
}

export class Replanning {
  readonly channel = new PhaseChannel<Replan__Output>();
  readonly predicted: PredictedPause__Output;
  readonly reason: string;
  readonly #proposal: Proposal;
  readonly #trigger: ReplanTrigger;
  readonly #log: ReplanLog;
  readonly #context: ReplanContext;
  #pausedMs: number | null = null;
  /** The newest move's; an older one stops. */
  #epoch = 0;
  #moved: Moved | null = null;
  /** Why the new plan did not come to serve. */
  #undone: HelsError | null = null;

  constructor(proposal: Proposal, trigger: ReplanTrigger, log: ReplanLog, context: ReplanContext) {
    const { currentSeconds, plannedSeconds } = proposal;
    this.#proposal = proposal;
    this.#trigger = trigger;
    this.#log = log;
    this.#context = context;
    this.predicted = predictedPauseOf(proposal, context, log.pauseRatio);
    const planned = milliseconds(plannedSeconds);
    this.reason = Number.isFinite(currentSeconds)
      ? `a decode step should take ${planned} instead of ${milliseconds(currentSeconds)}`
      : `decode step without ${leavingOf(proposal, context.from)}: ${planned}`;
  }

  /** All that may hold something of a move, as they are reached now. */
  get candidates(): readonly GroupWorker[] {
    return this.#proposal.candidates;
  }

  get kv(): string {
    return this.#moved?.kv ?? '';
  }

  /** Throws HelsError; the requests then wait. They do not wait for the plan of the way back to be stored: it is as good unstored. */
  async move(
    epoch: number,
    back: boolean,
    phase: (name: string) => void,
    storeWayBack: (plan: ShardPlan__Output) => void,
  ): Promise<LoadedGroup> {
    const { from, engine, held, term, clock } = this.#context;
    this.#epoch = epoch;
    const refuseSuperseded = () => {
      if (this.#epoch !== epoch) throw new HelsError('stale-fence', `epoch ${epoch} has passed`);
    };
    const ports = {
      phase: (name: string) => {
        refuseSuperseded();
        phase(name);
        return (message: string, fraction: number) => {
          refuseSuperseded();
          this.channel.progress(name, message, fraction);
        };
      },
      paused: () => {
        this.#pausedMs ??= clock.nowMs();
      },
      nowMs: () => clock.nowMs(),
    };
    const to = this.#target(epoch, back);
    if (back) storeWayBack(to.shardPlan);
    const fence = { term, epoch };
    const moved = await moveGroup({ fence, from, to, mayMigrate: !back, held, engine }, ports);
    refuseSuperseded();
    this.#moved = moved;
    return moved.loaded;
  }

  /** The new plan did not come to serve: the next move is the one back, if there is one. */
  undo(error: HelsError): void {
    if (this.#undone !== null) return;
    this.#undone = error;
    this.channel.progress('going back', error.message, 0);
  }

  /** Its epoch is over, by a loss or a decision. */
  failed(error: HelsError): void {
    const epoch = Math.max(this.#epoch, this.#context.from.shardPlan.epoch);
    this.#epoch = Number.POSITIVE_INFINITY;
    const { message } = this.#undone ?? error;
    this.#log.failed(`the re-plan failed, and its epoch with it: ${message}`, epoch);
    this.channel.failed(this.#undone ?? error);
  }

  /** Its last move serves. */
  served(): void {
    const moved = this.#moved;
    if (moved === null) return;
    this.#releaseLeaving(moved.loaded);
    const replan = this.#record(moved);
    this.#log.ended(replan);
    if (this.#undone === null) {
      this.channel.ready(replan);
      return;
    }
    const { code, message, field } = this.#undone;
    const serves = `the former plan serves on under epoch ${replan.epoch}`;
    const options = field === null ? {} : { field };
    this.channel.failed(new HelsError(code, `${message}; ${serves}`, options));
  }

  /** There, plans and what they were made from are of the epoch; lines are as fitted, or ratios would be taken twice. */
  #target(epoch: number, back: boolean): MoveTarget {
    const { from } = this.#context;
    const { made, planRequest, fitted, candidates, workers } = this.#proposal;
    if (back) {
      const { shardPlan, input } = from;
      return {
        shardPlan: { ...shardPlan, epoch },
        planRequest: { ...from.planRequest, epoch },
        input,
        candidates: [...candidates],
        workers: from.workers,
      };
    }
    return {
      shardPlan: { ...made.shardPlan, epoch },
      planRequest: { ...planRequest, epoch, devices: fitted },
      input: { ...made.input, devices: planDevices(fitted) },
      candidates: [...candidates],
      workers: [...workers],
    };
  }

  #releaseLeaving(loaded: LoadedGroup): void {
    const { held, term } = this.#context;
    const serving = new Set(loaded.workers.map(({ id }) => id));
    // One that was still loading for a plan that was dropped is not known to hold anything.
    const leaving = loaded.candidates.filter(({ id }) => !serving.has(id));
    for (const { id } of leaving) held.delete(id);
    void releaseRanks(leaving, { term, epoch: loaded.shardPlan.epoch });
  }

  #record(moved: Moved): Replan__Output {
    const { from, clock } = this.#context;
    const { loaded, kv, migrationBytes, migrationSeconds, sequences, replayedTokens } = moved;
    const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
    return {
      unixMs: Math.round(clock.unixMs()),
      fromEpoch: from.shardPlan.epoch,
      epoch: loaded.shardPlan.epoch,
      trigger: this.#trigger,
      outcome: this.#undone === null ? 'applied' : 'undone',
      reason: this.#undone?.message ?? this.reason,
      kv,
      pauseSeconds: (clock.nowMs() - (this.#pausedMs ?? clock.nowMs())) / 1000,
      predicted: this.predicted,
      weightBytesLoaded: sum(loaded.prepared.map(({ weightBytesLoaded }) => weightBytesLoaded)),
      weightBytesAdopted: sum(loaded.prepared.map(({ weightBytesAdopted }) => weightBytesAdopted)),
      kvBytesMoved: migrationBytes,
      kvMigrationSeconds: migrationSeconds,
      sequences,
      replayedTokens,
      gain: gainOf(this.#proposal),
    };
  }
}
