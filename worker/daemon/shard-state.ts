/**
 * The life of a worker's shard as a pure machine: state + event -> state, or a refusal. What follows from a change (loading, closing,
 * answering) is done by shard.ts.
 *
 *     idle -> preparing -> prepared -> connected -> idle          a newer fence may begin `preparing` from anywhere
 *
 * A Prepare that names the fence that is held ends it for steps, but not its engine, which the new one takes over (`adopting`).
 */
import { HelsError } from '../../proto/domain/errors.ts';
import { compareFences, type Fence, refuseStale, showFence, zeroFence } from './fence.ts';

type Phase = 'idle' | 'preparing' | 'prepared' | 'connected';

export interface ShardState {
  phase: Phase;
  /** Newest fence accepted; never goes back. */
  newest: Fence;
  /** Of the shard that is being prepared or held; null while idle. */
  held: Fence | null;
  /** Of the ended epoch whose engine the shard that is being prepared takes over; null: it loads everything. */
  adopting: Fence | null;
  draining: boolean;
  /** Number of the last step accepted in the held epoch. */
  lastStep: number;
  /** Steps accepted whose results have not left this worker. */
  stepsInFlight: number;
}

export type ShardEvent =
  | { type: 'prepare-requested'; fence: Fence; previous: Fence | null }
  | { type: 'prepare-finished'; fence: Fence }
  | { type: 'connect-requested'; fence: Fence }
  | { type: 'connect-finished'; fence: Fence }
  | { type: 'profile-requested'; fence: Fence }
  | { type: 'step-received'; fence: Fence; step: number }
  | { type: 'step-answered'; fence: Fence }
  | { type: 'shard-ended'; fence: Fence }
  | { type: 'release-requested'; fence: Fence }
  | { type: 'drain-requested' };

/** Steps of one stream that may wait for their result. The controller is one step ahead; more means that it does not read. */
export const stepsInFlightMax = 64;

export const initialShardState: ShardState = {
  phase: 'idle',
  newest: zeroFence,
  held: null,
  adopting: null,
  draining: false,
  lastStep: 0,
  stepsInFlight: 0,
};

/** In one word, for `Describe`. */
export function describeState(state: ShardState): string {
  return state.draining ? 'draining' : state.phase;
}

function isHeld(state: ShardState, fence: Fence): boolean {
  return state.held !== null && compareFences(state.held, fence) === 0;
}

function idle(state: ShardState): ShardState {
  return { ...state, phase: 'idle', held: null, adopting: null, lastStep: 0, stepsInFlight: 0 };
}

function requireHeld(state: ShardState, fence: Fence, phase: Phase): void {
  refuseStale(fence, state.newest);
  if (!isHeld(state, fence) || state.phase !== phase) {
    const held = state.held === null ? 'none' : showFence(state.held);
    throw new HelsError(
      'not-ready',
      `fence ${showFence(fence)} needs a ${phase} shard; this worker is ${state.phase} and holds ${held}`,
      { field: 'fence' },
    );
  }
}

function refuseWhileDraining(state: ShardState): void {
  if (state.draining) throw new HelsError('draining', 'this worker is stopping');
}

/** Throws stale-fence, not-ready, draining, overloaded or request-invalid when the event is not allowed; the state stays then. */
export function applyShardEvent(state: ShardState, event: ShardEvent): ShardState {
  switch (event.type) {
    case 'prepare-requested':
      return requestPrepare(state, event.fence, event.previous);
    case 'prepare-finished':
      // A newer Prepare or a Release may have come while this one loaded.
      requireHeld(state, event.fence, 'preparing');
      refuseWhileDraining(state);
      return { ...state, phase: 'prepared', adopting: null };
    case 'connect-requested':
      refuseWhileDraining(state);
      requireHeld(state, event.fence, 'prepared');
      return state;
    case 'connect-finished':
      requireHeld(state, event.fence, 'prepared');
      return { ...state, phase: 'connected' };
    case 'profile-requested':
      return requestProfile(state, event.fence);
    case 'step-received':
      return receiveStep(state, event.fence, event.step);
    case 'step-answered':
      if (!isHeld(state, event.fence)) return state;
      return { ...state, stepsInFlight: state.stepsInFlight - 1 };
    case 'shard-ended':
      return isHeld(state, event.fence) ? idle(state) : state;
    case 'release-requested':
      refuseStale(event.fence, state.newest);
      return idle({ ...state, newest: event.fence });
    case 'drain-requested':
      return { ...state, draining: true };
  }
}

function requestPrepare(state: ShardState, fence: Fence, previous: Fence | null): ShardState {
  refuseWhileDraining(state);
  refuseStale(fence, state.newest);
  if (state.phase === 'preparing' && isHeld(state, fence)) {
    throw new HelsError('overloaded', `a Prepare for fence ${showFence(fence)} is already running`);
  }
  if (previous !== null && compareFences(previous, fence) >= 0) {
    throw new HelsError(
      'request-invalid',
      `previous is ${showFence(previous)}; it must be older than the fence ${showFence(fence)}`,
      { field: 'previous' },
    );
  }
  // What is still loading has no engine to give.
  const gives = previous !== null && isHeld(state, previous) && state.phase !== 'preparing';
  return {
    ...idle(state),
    phase: 'preparing',
    newest: fence,
    held: fence,
    adopting: gives ? previous : null,
  };
}

/** Measuring disturbs a running group and is disturbed by it, so it waits for a pause; it commands nothing, so `newest` stays. */
function requestProfile(state: ShardState, fence: Fence): ShardState {
  refuseWhileDraining(state);
  if (fence.term < state.newest.term) refuseStale(fence, state.newest);
  if (state.stepsInFlight > 0 || state.phase === 'preparing') {
    const busy = state.phase === 'preparing' ? 'loading a shard' : 'running steps';
    throw new HelsError('overloaded', `this worker is ${busy}; profile it when it is idle`);
  }
  return state;
}

function receiveStep(state: ShardState, fence: Fence, step: number): ShardState {
  requireHeld(state, fence, 'connected');
  refuseWhileDraining(state);
  if (step !== state.lastStep + 1) {
    throw new HelsError(
      'request-invalid',
      `step is ${step}; the next step of epoch ${fence.epoch} is ${state.lastStep + 1}`,
      { field: 'step' },
    );
  }
  if (state.stepsInFlight >= stepsInFlightMax) {
    throw new HelsError(
      'overloaded',
      `${state.stepsInFlight} steps wait for their results, the limit is ${stepsInFlightMax}; read results before sending more`,
    );
  }
  return { ...state, lastStep: step, stepsInFlight: state.stepsInFlight + 1 };
}
