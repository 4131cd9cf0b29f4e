import type { HelsError } from '../../proto/domain/errors.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { HeldKv, KeptRoom } from '../scheduler/hand-over.ts';
import type { LoadedGroup } from './deployment-run.ts';
import type { MeasuredSteps } from './plan-report.ts';

/** A loaded group in the engine: warmed up, if nobody waits for it, then attached to the APIs, until closed. Its requests outlive its epoch. */
export interface EngineGroup {
  warmUp(sequences: number): Promise<MeasuredSteps>;
  /** Throws what has ended it, be it now, by the requests that waited. */
  attach(): void;
  /** Requests wait for it: of an epoch that has ended, or newcomers since. */
  readonly isAwaited: boolean;
  /** It has computed some steps: made-up ones, or those of requests. */
  readonly isProved: boolean;
  /** Since when its ranks have answered no step; null: those of the epoch have; -Infinity: none ever has. */
  readonly silentSinceMs: number | null;
  /** To be called often. When everybody has left before those that serve have answered a step, a known answer takes their place. */
  proveIdle(): void;
  /** Takes no request until the next rebase that could not go on under the plan; throws plan-infeasible for one that is here. */
  reserve(plan: ShardPlan__Output): void;
  /** Resolves at a step boundary; until the next rebase nothing is computed. */
  pause(): Promise<void>;
  /** By request. */
  kvInUse(): readonly HeldKv[];
  /**
   * Goes on over the ranks of another epoch, which hold the KV that `kept` says. Resolves when a step went through all of them, to the
   * positions that are computed again because of the move; when none does, rejects and stays paused.
   */
  rebase(group: LoadedGroup, kept: KeptRoom): Promise<number>;
  /** Of the last full decode steps of the epoch; null before there are enough. */
  measured(): MeasuredSteps | null;
  /** The epoch is over: its requests wait for another, or end with the error. The step streams close. */
  close(error: HelsError): Promise<void>;
}

export type OpenEngineGroup = (
  group: LoadedGroup,
  term: number,
  onFailed: (error: HelsError) => void,
) => EngineGroup;
