/**
 * What KV that makes room and comes back was predicted to take, beside what it took: by path, over the steps of one group. Each path learns
 * what beginning costs and what comes with the amount (two-term-fit.ts); what is learnt is held against the next step. What is chosen by is
 * a ratio measured / predicted that follows the steps and leaves outliers out (profiler/online.ts).
 */
import { initialOnline, type OnlineState, observeStep, ratioOf } from '../profiler/online.ts';
import {
  factorsOf,
  initialFit,
  observeTerms,
  type TwoTermFit,
  type TwoTerms,
  totalOf,
} from './two-term-fit.ts';

/** reload: moves away and back. replay: computed again. remote: exchanges about KV on loan. recall: moves home from there. */
const kvPaths = ['reload', 'replay', 'remote', 'recall'] as const;
export type KvPath = (typeof kvPaths)[number];

/** Of the costs as fitted: nothing was measured of beginning a step's moves, whose term is one block. */
const fittedFactors: Readonly<Record<KvPath, TwoTerms>> = {
  reload: { begun: 0, carried: 1 },
  replay: { begun: 0, carried: 1 },
  remote: { begun: 1, carried: 1 },
  recall: { begun: 0, carried: 1 },
};

export interface KvPathPrediction {
  readonly path: KvPath;
  readonly steps: number;
  /** Sums over the steps; by the fitted costs. */
  readonly predictedSeconds: number;
  readonly measuredSeconds: number;
  /** Measured / predicted as believed now; 1 before the first step. */
  readonly ratio: number;
  /** Medians of |measured - predicted| / measured, of steps that took a millisecond together: as fitted, and as refined before each step. */
  readonly errorMedianPercent: number;
  readonly refinedErrorMedianPercent: number;
}

/** Before, what a path takes is not believed to be more than chance. */
const trustedSteps = 16;

/**
 * What steps took in sum before it is held against what they were predicted to. The exchanges of one step, or a block that is moved, take a
 * tenth of that on a processor, of which a fifth is chance (docs/benchmarks.md); what counts is what they take of many.
 */
const windowSecondsMin = 0.001;

/** Windows that a median is taken over. */
const errorsKept = 1024;

/** Sums over the steps of a window. */
interface Window {
  readonly measured: number;
  readonly fitted: number;
  readonly refined: number;
}

const emptyWindow: Window = { measured: 0, fitted: 0, refined: 0 };

interface PathState {
  online: OnlineState;
  fit: TwoTermFit;
  window: Window;
  predictedSeconds: number;
  measuredSeconds: number;
  readonly errors: number[];
  readonly refinedErrors: number[];
}

const initialState = (path: KvPath): PathState => ({
  online: initialOnline,
  fit: initialFit(fittedFactors[path]),
  window: emptyWindow,
  predictedSeconds: 0,
  measuredSeconds: 0,
  errors: [],
  refinedErrors: [],
});

function keep(values: number[], value: number): void {
  values.push(value);
  if (values.length > errorsKept) values.shift();
}

/** While no window is full, that of the one that is open. */
function medianPercent(errors: readonly number[], open: Window, seconds: number): number {
  const sorted = errors.toSorted((left, right) => left - right);
  const first = open.measured === 0 ? 0 : Math.abs(open.measured - seconds) / open.measured;
  return 100 * (sorted[Math.floor(sorted.length / 2)] ?? first);
}

export class KvPathTracker {
  readonly #paths = new Map<KvPath, PathState>(kvPaths.map((path) => [path, initialState(path)]));

  /** One step's seconds on a path; what is not a finite number above 0 says nothing. */
  observe(path: KvPath, terms: TwoTerms, measured: number): void {
    const state = this.#paths.get(path);
    const predicted = totalOf(terms, fittedFactors[path]);
    const said = [predicted, measured].every((value) => value > 0 && value < 1e9);
    if (state === undefined || !said) return;
    this.#compare(state, terms, predicted, measured);
    state.online = observeStep(state.online, predicted, measured);
    state.fit = observeTerms(state.fit, terms, measured);
    state.predictedSeconds += predicted;
    state.measuredSeconds += measured;
  }

  /** 1 until enough steps have taken the path: the first moves touch memory for the first time. */
  ratioOf(path: KvPath): number {
    const online = this.#paths.get(path)?.online ?? initialOnline;
    return online.steps < trustedSteps ? 1 : ratioOf(online);
  }

  /** Of the paths that were taken. */
  predictions(): KvPathPrediction[] {
    return [...this.#paths].flatMap(([path, state]) =>
      state.online.steps === 0
        ? []
        : {
            path,
            steps: state.online.steps,
            predictedSeconds: state.predictedSeconds,
            measuredSeconds: state.measuredSeconds,
            ratio: ratioOf(state.online),
            errorMedianPercent: medianPercent(state.errors, state.window, state.window.fitted),
            refinedErrorMedianPercent: medianPercent(
              state.refinedErrors,
              state.window,
              state.window.refined,
            ),
          },
    );
  }

  /** The first step has nothing learnt to be held against. */
  #compare(state: PathState, terms: TwoTerms, predicted: number, measured: number): void {
    if (state.online.steps === 0) return;
    const window = {
      measured: state.window.measured + measured,
      fitted: state.window.fitted + predicted,
      refined: state.window.refined + totalOf(terms, factorsOf(state.fit)),
    };
    const isFull = window.measured >= windowSecondsMin;
    state.window = isFull ? emptyWindow : window;
    if (!isFull) return;
    const errorOf = (seconds: number) => Math.abs(window.measured - seconds) / window.measured;
    keep(state.errors, errorOf(window.fitted));
    keep(state.refinedErrors, errorOf(window.refined));
  }
}
