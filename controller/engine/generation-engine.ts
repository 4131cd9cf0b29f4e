/**
 * The engine that the APIs see: the step loop of the epoch being served, or a clear not-ready while there is none. What was running when
 * an epoch ended goes on in the next.
 */
import type { Clock } from '../../proto/base/clock.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import type {
  GenerationEngine,
  GenerationEvent,
  GenerationLimits,
  GenerationRequest,
} from '../../proto/domain/generation.ts';
import type { KvResidency } from '../../proto/domain/kv-residency.ts';
import type { KvPathTracker } from '../deployment/kv-path-tracker.ts';
import { Returning } from './returning.ts';
import type { StepLoop } from './step-loop.ts';
import { Survivors } from './survivors.ts';

export interface ServingGroup {
  loop: StepLoop;
  limits: GenerationLimits;
  /** What the ranks compute with: groups of equal ones give the same answers, and requests go on from one to the other. */
  weights: string;
  /** Where each rank's KV lies. */
  residency: KvResidency;
  kvPaths: KvPathTracker;
  /** By rank. */
  workerIds: readonly string[];
  /** By rank; one without any has no KV of its own. */
  headGroups: readonly number[];
}

export class SwitchingEngine implements GenerationEngine {
  #serving: ServingGroup | null = null;
  #draining = false;
  readonly #survivors: Survivors;
  readonly #returning: Returning;

  /** `resumed`: told how many requests went on after the end of their epoch. */
  constructor(clock: Clock, resumed: (requests: number) => void) {
    this.#survivors = new Survivors(clock, resumed);
    this.#returning = new Returning(clock);
  }

  attach(group: ServingGroup): void {
    this.#serving = group;
    this.#returning.over();
    this.#survivors.goOn(group.loop, group.weights);
  }

  /** Only when this loop is the one being served: a late end of an old epoch must not take the new one away. */
  detach(loop: StepLoop): void {
    if (this.#serving?.loop !== loop) return;
    if (!this.#draining) this.#returning.ended(this.#serving.limits.modelId);
    this.#serving = null;
  }

  /** What served may be on its way back: for how long a newcomer waits for it, and when it throws, is said there. Throws draining, too. */
  async awaitReturn(modelId: string | null, signal: AbortSignal): Promise<void> {
    await this.#returning.wait(modelId, signal);
    this.#refuseWhileDraining();
  }

  get serving(): ServingGroup | null {
    return this.#serving;
  }

  /** Requests that wait for the next epoch: of one that has ended, and those that came since. */
  get held(): number {
    return this.#survivors.count + this.#returning.count;
  }

  /** To be called often. `coming`: the models of which one is to serve by itself. */
  tick(coming: readonly string[]): void {
    this.#survivors.tick(coming);
    this.#returning.tick(coming);
  }

  /** A plan with less KV lowers them before it serves: a request that comes meanwhile is to fit both. */
  limits(): GenerationLimits | null {
    if (this.#serving === null) return null;
    const { limits, loop } = this.#serving;
    return { ...limits, contextTokensMax: loop.contextTokensMax };
  }

  generate(request: GenerationRequest, signal: AbortSignal): AsyncIterable<GenerationEvent> {
    this.#refuseWhileDraining();
    if (this.#serving === null) {
      throw new HelsError(
        'not-ready',
        'no model is being served yet; deploy one, or try again soon',
      );
    }
    const { loop, limits, weights } = this.#serving;
    return loop.submit(request, signal, this.#survivors.keeperOf(limits.modelId, weights));
  }

  /** It stops. */
  get isDraining(): boolean {
    return this.#draining;
  }

  #refuseWhileDraining(): void {
    if (!this.#draining) return;
    throw new HelsError('draining', 'the server is stopping and takes no new requests');
  }

  /** Refuses new requests and lets running ones end until the deadline. */
  async drain(deadlineMs: number): Promise<void> {
    this.#draining = true;
    this.#returning.over();
    this.#survivors.close(new HelsError('draining', 'the server is stopping'));
    await this.#serving?.loop.drain(deadlineMs);
  }
}
