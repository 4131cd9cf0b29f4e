/**
 * Requests whose epoch has ended under them, by the loss of a worker mostly: they wait here until another serves the same weights, and go
 * on there from the tokens that their callers have. Nobody waits for longer than `heldMsMax`, nor when no such epoch is on its way.
 */
import type { Clock } from '../../proto/base/clock.ts';
import { type ErrorCode, HelsError } from '../../proto/domain/errors.ts';
import { limits } from '../limits.ts';
import type { Caller, EpochEnded } from './caller.ts';
import { isOurFault } from './our-fault.ts';
import type { StepLoop } from './step-loop.ts';

interface Held {
  readonly caller: Caller;
  readonly modelId: string;
  readonly weights: string;
  /** What ended its epoch, and ends the request when it cannot go on. */
  readonly error: HelsError;
  readonly untilMs: number;
}

/** The model's arithmetic, or a fault of ours, would fail again for whom it was computing. */
const finalCodes: ReadonlySet<ErrorCode> = new Set(['numeric-range', 'internal']);

export class Survivors {
  readonly #clock: Clock;
  readonly #resumed: (requests: number) => void;
  #held: Held[] = [];
  #closedBy: HelsError | null = null;

  /** `resumed`: told how many went on. */
  constructor(clock: Clock, resumed: (requests: number) => void) {
    this.#clock = clock;
    this.#resumed = resumed;
  }

  get count(): number {
    return this.#held.length;
  }

  /**
   * For one request over this model and weights. One that epoch after epoch computes until its end, without a token, may be what ends
   * them; so may one that is there, in no step yet, whenever there is a fault of ours.
   */
  keeperOf(modelId: string, weights: string): EpochEnded {
    let given = 0;
    let barren = 0;
    return (caller, error) => {
      if (caller.tokensGiven > given) barren = 0;
      else if (caller.named || isOurFault(error)) barren += 1;
      given = caller.tokensGiven;
      const isFinal = caller.named && finalCodes.has(error.code);
      if (this.#closedBy !== null || isFinal || barren > limits.barrenEpochsMax) {
        caller.end({ type: 'failed', error: this.#closedBy ?? error });
      } else {
        const untilMs = this.#clock.nowMs() + limits.heldMsMax;
        this.#hold({ caller, modelId, weights, error, untilMs });
      }
    };
  }

  #hold(held: Held): void {
    this.#held.push(held);
    held.caller.onLeft(() => {
      this.#end(held, new HelsError('cancelled', 'the caller went away'));
    });
  }

  /** This serves now: everybody goes on over it, or ends. */
  goOn(loop: Pick<StepLoop, 'takeOver'>, weights: string): void {
    const held = new Map(this.#held.map((one) => [one.caller, one]));
    if (held.size === 0) return;
    for (const one of held.values()) {
      if (one.weights === weights) continue;
      held.delete(one.caller);
      this.#endLost(one);
    }
    this.#held = [];
    const refused = loop.takeOver([...held.keys()]);
    for (const { caller, error } of refused) {
      const why = held.get(caller)?.error.message;
      const message = `${why}; what serves since cannot take the request over: ${error.message}`;
      caller.end({ type: 'failed', error: new HelsError('worker-lost', message) });
    }
    this.#resumed(held.size - refused.length);
  }

  /** `coming`: the models of which one is to serve by itself. */
  tick(coming: readonly string[]): void {
    const nowMs = this.#clock.nowMs();
    const waits = ({ modelId, untilMs }: Held) => coming.includes(modelId) && nowMs < untilMs;
    for (const held of this.#held.filter((one) => !waits(one))) this.#endLost(held);
  }

  /** From now on nobody is held. */
  close(error: HelsError): void {
    this.#closedBy = error;
    for (const held of [...this.#held]) this.#end(held, error);
  }

  /** Whatever ended its epoch: that it cannot go on is the loss of its ranks. */
  #endLost(held: Held): void {
    const message = `${held.error.message}; nothing that serves since could take the request over`;
    this.#end(held, new HelsError('worker-lost', message, { cause: held.error }));
  }

  #end(held: Held, error: HelsError): void {
    this.#held = this.#held.filter((other) => other !== held);
    held.caller.end({ type: 'failed', error });
  }
}
