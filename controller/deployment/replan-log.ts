/** The re-plans that ended since the controller started: counted, told, and learnt from. */
import type { Replan__Output } from '../../proto/gen/hels/v1/Replan.ts';
import { initialOnline, type OnlineState, observeStep, ratioOf } from '../profiler/online.ts';

export interface ReplanObserver {
  replanned(replan: Replan__Output): void;
  replanFailed(): void;
}

type Tell = (kind: string, workerId: string, message: string, payBackSeconds: number) => void;

const seconds = (value: number) => `${value.toFixed(value < 10 ? 2 : 0)} s`;

function sentenceOf(replan: Replan__Output): string {
  const { fromEpoch, epoch, outcome, reason, kv, sequences, replayedTokens } = replan;
  const what = outcome === 'applied' ? 'new plan' : 'former plan again';
  const how = kv === 'migrated' ? 'their KV moved' : `${replayedTokens} tokens computed again`;
  const who = sequences === 0 ? 'no request ran' : `${sequences} requests went on, ${how}`;
  const predicted = seconds(replan.predicted?.seconds ?? 0);
  return `epoch ${fromEpoch} -> ${epoch}, ${what}: ${reason}; ${who}; pause ${seconds(replan.pauseSeconds)}, predicted ${predicted}`;
}

export class ReplanLog {
  readonly #tell: Tell;
  readonly #observer: ReplanObserver;
  #last: Replan__Output | null = null;
  #count = 0;
  #trouble: number | null = null;
  #pause: OnlineState = initialOnline;

  constructor(tell: Tell, observer: ReplanObserver) {
    this.#tell = tell;
    this.#observer = observer;
  }

  get last(): Replan__Output | null {
    return this.#last;
  }

  get count(): number {
    return this.#count;
  }

  /** The epoch in which the last re-plan of the deployment ended that did not come to serve; null: it did, or there was none. */
  get trouble(): number | null {
    return this.#trouble;
  }

  /** Another deployment by hand: what went wrong before says nothing of it. */
  forgetTrouble(): void {
    this.#trouble = null;
  }

  /** Measured / predicted pauses, as believed now. */
  get pauseRatio(): number {
    return ratioOf(this.#pause);
  }

  ended(replan: Replan__Output): void {
    this.#last = replan;
    this.#count += 1;
    const applied = replan.outcome === 'applied';
    this.#trouble = applied ? null : replan.epoch;
    // The prediction had the ratio in it.
    const predicted = (replan.predicted?.seconds ?? 0) / this.pauseRatio;
    if (applied) this.#pause = observeStep(this.#pause, predicted, replan.pauseSeconds);
    this.#tell(applied ? 'replan' : 'replan-undone', '', sentenceOf(replan), 0);
    this.#observer.replanned(replan);
  }

  /** `epoch`: the one that ended with it. */
  failed(message: string, epoch: number): void {
    this.#trouble = epoch;
    this.#tell('replan-failed', '', message, 0);
    this.#observer.replanFailed();
  }
}
