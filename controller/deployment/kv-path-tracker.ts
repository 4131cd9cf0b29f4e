/**
 * What KV that makes room and comes back was predicted to take, beside what it took: by path, over the steps of one group. Each path has
 * a ratio measured / predicted that follows the steps (profiler/online.ts); what it refines is held against the next step.
 */
import { initialOnline, type OnlineState, observeStep, ratioOf } from '../profiler/online.ts';

/** reload: moves away and back. replay: computed again. remote: exchanges about KV on loan. recall: moves home from there. */
const kvPaths = ['reload', 'replay', 'remote', 'recall'] as const;
export type KvPath = (typeof kvPaths)[number];

export interface KvPathPrediction {
  readonly path: KvPath;
  readonly steps: number;
  /** Sums over the steps; by the fitted costs. */
  readonly predictedSeconds: number;
  readonly measuredSeconds: number;
  /** Measured / predicted as believed now; 1 before the first step. */
  readonly ratio: number;
  /** Medians of |measured - predicted| / measured over the last steps: as fitted, and as refined before each step. */
  readonly errorMedianPercent: number;
  readonly refinedErrorMedianPercent: number;
}

/** Before, what a path takes is not believed to be more than chance. */
const trustedSteps = 16;

/** Steps that a median is taken over. */
const errorsKept = 1024;

interface PathState {
  online: OnlineState;
  predictedSeconds: number;
  measuredSeconds: number;
  readonly errors: number[];
  readonly refinedErrors: number[];
}

function keep(values: number[], value: number): void {
  values.push(value);
  if (values.length > errorsKept) values.shift();
}

function medianPercent(errors: readonly number[]): number {
  const sorted = errors.toSorted((left, right) => left - right);
  return 100 * (sorted[Math.floor(sorted.length / 2)] ?? 0);
}

export class KvPathTracker {
  readonly #paths = new Map<KvPath, PathState>(
    kvPaths.map((path) => [
      path,
      {
        online: initialOnline,
        predictedSeconds: 0,
        measuredSeconds: 0,
        errors: [],
        refinedErrors: [],
      },
    ]),
  );

  /** One step's seconds on a path; what is not a finite number above 0 says nothing. */
  observe(path: KvPath, predictedSeconds: number, measuredSeconds: number): void {
    const state = this.#paths.get(path);
    const said = [predictedSeconds, measuredSeconds].every((value) => value > 0 && value < 1e9);
    if (state === undefined || !said) return;
    const errorOf = (predicted: number) => Math.abs(measuredSeconds - predicted) / measuredSeconds;
    keep(state.errors, errorOf(predictedSeconds));
    if (state.online.steps > 0) {
      keep(state.refinedErrors, errorOf(predictedSeconds * ratioOf(state.online)));
    }
    state.online = observeStep(state.online, predictedSeconds, measuredSeconds);
    state.predictedSeconds += predictedSeconds;
    state.measuredSeconds += measuredSeconds;
  }

  /** 1 until enough steps have taken the path: the first moves touch memory for the first time. */
  ratioOf(path: KvPath): number {
    const online = this.#paths.get(path)?.online ?? initialOnline;
    return online.steps < trustedSteps ? 1 : ratioOf(online);
  }

  /** Of the paths that were taken. */
  predictions(): KvPathPrediction[] {
    return [...this.#paths].flatMap(([path, { online, errors, refinedErrors, ...sums }]) =>
      online.steps === 0
        ? []
        : {
            path,
            steps: online.steps,
            ...sums,
            ratio: ratioOf(online),
            errorMedianPercent: medianPercent(errors),
            refinedErrorMedianPercent: medianPercent(refinedErrors),
          },
    );
  }
}
