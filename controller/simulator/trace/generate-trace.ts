import { Random } from '../random.ts';
import type { Arrival } from './arrival.ts';
import { drawTokens, type LengthModelName, lengthModels } from './lengths.ts';

export type ArrivalProcess =
  /** Independent requests, `ratePerSecond` on average. */
  | { readonly type: 'poisson'; readonly ratePerSecond: number }
  /** Gaps with this coefficient of variation: 1 is Poisson, above 1 comes in bursts, below 1 is regular. */
  | { readonly type: 'gamma'; readonly ratePerSecond: number; readonly variation: number }
  /** All at once. */
  | { readonly type: 'burst' };

export type Lengths =
  | { readonly type: 'model'; readonly name: LengthModelName }
  | { readonly type: 'fixed'; readonly promptTokens: number; readonly outputTokens: number };

export interface GeneratedTrace {
  readonly process: ArrivalProcess;
  readonly count: number;
  readonly lengths: Lengths;
}

function gapSeconds(process: ArrivalProcess, random: Random): number {
  switch (process.type) {
    case 'burst':
      return 0;
    case 'poisson':
      return random.exponential() / process.ratePerSecond;
    case 'gamma': {
      const shape = 1 / process.variation ** 2;
      return random.gamma(shape) / (shape * process.ratePerSecond);
    }
  }
}

/** The same seed gives the same trace. Gaps and lengths draw from streams of their own: another rate leaves the lengths as they are. */
export function generateTrace(trace: GeneratedTrace, seed: number): Arrival[] {
  const gaps = new Random(seed);
  const tokens = new Random(seed + 1);
  const arrivals: Arrival[] = [];
  let atSeconds = 0;
  for (let index = 0; index < trace.count; index += 1) {
    atSeconds += gapSeconds(trace.process, gaps);
    const { lengths } = trace;
    if (lengths.type === 'fixed') {
      const { promptTokens, outputTokens } = lengths;
      arrivals.push({ atSeconds, promptTokens, outputTokens });
      continue;
    }
    const model = lengthModels[lengths.name];
    const promptTokens = drawTokens(tokens, model.prompt);
    arrivals.push({ atSeconds, promptTokens, outputTokens: drawTokens(tokens, model.output) });
  }
  return arrivals;
}
