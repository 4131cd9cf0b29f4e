import type { Clock } from '../../proto/base/clock.ts';
import type { Logger } from '../../proto/base/log.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import type { HeartbeatRequest__Output } from '../../proto/gen/hels/v1/HeartbeatRequest.ts';
import type { RegistryPort, WorkerRegistration } from '../api/grpc/registry-service.ts';
import {
  applyMembershipEvent,
  availableMembers,
  emptyMembership,
  isCurrent,
  type Member,
  type Membership,
  type MembershipEvent,
  type MembershipLimits,
  refusalOf,
} from '../cluster/membership.ts';
import type { MembershipWatch } from './member-events.ts';

/** A worker sends three heartbeats in the time after which it counts as suspect. */
const heartbeatIntervalMs = 500;
const membershipLimits: MembershipLimits = { suspectMs: 1_500, leaseMs: 5_000, stuckMs: 10_000 };

export interface RegistryListener {
  workerJoined(): void;
  workerLost(id: string, incarnation: string, reason: string): void;
}

/** The registered workers: membership's machine with a clock and listeners. */
export class WorkerRegistry implements RegistryPort {
  readonly #term: number;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #watch: MembershipWatch;
  readonly #waiting = new Set<() => void>();
  #listener: RegistryListener | null = null;
  #membership: Membership = emptyMembership;
  #tickedMs: number | null = null;
  /** Whether the worker has been sent steps that it has not answered. */
  #stepsOutstanding: (workerId: string) => boolean = () => false;

  constructor(term: number, clock: Clock, log: Logger, watch: MembershipWatch) {
    this.#term = term;
    this.#clock = clock;
    this.#log = log;
    this.#watch = watch;
  }

  connect(listener: RegistryListener, stepsOutstanding: (workerId: string) => boolean): void {
    this.#listener = listener;
    this.#stepsOutstanding = stepsOutstanding;
  }

  members(): Member[] {
    return [...this.#membership.members.values()];
  }

  /** Those that a plan may use. */
  available(): Member[] {
    return availableMembers(this.#membership);
  }

  isDrained(workerId: string): boolean {
    return this.#membership.drained.has(workerId);
  }

  drained(): string[] {
    return [...this.#membership.drained].sort();
  }

  setDrained(workerId: string, drained: boolean): void {
    this.#dispatch({ type: drained ? 'drain' : 'undrain', id: workerId });
  }

  /** Throws denied for the second of two workers with one name. */
  register(registration: WorkerRegistration) {
    const { workerId, ...worker } = registration;
    const nowMs = this.#clock.nowMs();
    const registered = { nowMs, worker: { id: workerId, ...worker } };
    const refusal = refusalOf(this.#membership, registered, membershipLimits);
    if (refusal !== null) throw new HelsError('denied', refusal, { field: 'worker_id' });
    this.#dispatch({ type: 'register', ...registered });
    return { term: this.#term, heartbeatIntervalMs };
  }

  heartbeat(heartbeat: HeartbeatRequest__Output) {
    const { workerId, incarnation, progress, memoryFreeBytes } = heartbeat;
    this.#dispatch({
      type: 'heartbeat',
      nowMs: this.#clock.nowMs(),
      id: workerId,
      incarnation,
      progress,
      memoryFreeBytes,
      stepsOutstanding: this.#stepsOutstanding(workerId),
    });
    return { known: isCurrent(this.#membership, workerId, incarnation), term: this.#term };
  }

  deregister(workerId: string, incarnation: string, reason: string): void {
    this.#dispatch({ type: 'deregister', id: workerId, incarnation, reason });
  }

  /** No plan uses it until it is heard of again. */
  unreachable({ id, incarnation }: Pick<Member, 'id' | 'incarnation'>): void {
    this.#dispatch({ type: 'unreachable', id, incarnation });
  }

  /** To be called more often than workers send heartbeats: of a longer pause, the rest is time in which this process stood still. */
  tick(): void {
    const nowMs = this.#clock.nowMs();
    const pauseMs = nowMs - (this.#tickedMs ?? nowMs);
    this.#tickedMs = nowMs;
    const awayMs = Math.max(0, pauseMs - heartbeatIntervalMs);
    this.#dispatch({ type: 'tick', nowMs, awayMs });
  }

  /**
   * All available workers once there are `count`, or, if there are any, once there have not been more for `settleMs`. Throws
   * deadline-exceeded naming how many there are.
   */
  async waitForAvailable(
    count: number,
    timeoutMs: number,
    signal: AbortSignal,
    settleMs = Number.POSITIVE_INFINITY,
  ): Promise<Member[]> {
    const untilMs = this.#clock.nowMs() + timeoutMs;
    let most = { count: 0, sinceMs: Number.POSITIVE_INFINITY };
    for (;;) {
      signal.throwIfAborted();
      const available = this.available();
      const nowMs = this.#clock.nowMs();
      if (available.length > most.count) most = { count: available.length, sinceMs: nowMs };
      const wanted = nowMs - most.sinceMs >= settleMs ? 1 : Math.max(1, count);
      if (available.length >= wanted) return available.sort((a, b) => (a.id < b.id ? -1 : 1));
      const leftMs = untilMs - this.#clock.nowMs();
      if (leftMs <= 0) {
        const drained = this.members().filter(({ id }) => this.isDrained(id)).length;
        const beside = drained > 0 ? ` beside ${drained} drained` : '';
        throw new HelsError(
          'deadline-exceeded',
          `${available.length} of ${count} workers registered within ${timeoutMs} ms${beside}; start more, or lower --workers`,
        );
      }
      await this.#change(Math.min(leftMs, 1_000), signal);
    }
  }

  /** Resolves when the membership changes, or after `ms`, or when the signal aborts. */
  #change(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const finish = () => {
        clearTimeout(timer);
        this.#waiting.delete(finish);
        signal.removeEventListener('abort', finish);
        resolve();
      };
      const timer = setTimeout(finish, ms);
      this.#waiting.add(finish);
      signal.addEventListener('abort', finish, { once: true });
    });
  }

  #dispatch(event: MembershipEvent): void {
    const step = applyMembershipEvent(this.#membership, event, membershipLimits);
    this.#membership = step.membership;
    for (const effect of step.effects) {
      const { type, ...fields } = effect;
      this.#log.info(type, fields);
      this.#watch(effect, event);
      if (effect.type === 'worker-joined' && !this.isDrained(effect.id)) {
        this.#listener?.workerJoined();
      }
      if (effect.type === 'worker-lost') {
        this.#listener?.workerLost(effect.id, effect.incarnation, effect.reason);
      }
    }
    if (step.effects.length > 0) for (const wake of [...this.#waiting]) wake();
  }
}
