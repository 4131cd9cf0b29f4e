import { HelsError } from '../../../proto/domain/errors.ts';
import { arrivalsMax, lengthTokensMax } from './arrival.ts';
import type { ArrivalProcess, GeneratedTrace, Lengths } from './generate-trace.ts';
import { type LengthModelName, lengthModels } from './lengths.ts';

/** Where a trace comes from. */
export type TraceSource =
  | { readonly type: 'file'; readonly path: string }
  | { readonly type: 'generated'; readonly trace: GeneratedTrace };

const processes = ['poisson', 'gamma', 'burst'] as const;
type ProcessName = (typeof processes)[number];

/** Requests per second and coefficients of variation. */
const rateMax = 1e6;

function fail(problem: string): never {
  throw new HelsError('usage', `--trace ${problem}`, { field: '--trace' });
}

/** The `name=value` parts of a generated trace; each may be taken once. */
class Parts {
  readonly #values = new Map<string, string>();
  readonly #process: ProcessName;

  constructor(process: ProcessName, text: string) {
    this.#process = process;
    for (const part of text.split(',').filter((one) => one !== '')) {
      const [name = '', ...value] = part.split('=');
      if (this.#values.has(name)) fail(`${process}: ${name} is given twice`);
      this.#values.set(name, value.join('='));
    }
  }

  take(name: string): string | undefined {
    const value = this.#values.get(name);
    this.#values.delete(name);
    return value;
  }

  number(name: string, max: number): number {
    const text = this.take(name);
    const value = text === undefined || text === '' ? Number.NaN : Number(text);
    if (value > 0 && value <= max) return value;
    return this.#refuse(name, text, `a number above 0 and at most ${max}`);
  }

  whole(name: string, max: number): number {
    const text = this.take(name);
    const value = text === undefined || text === '' ? Number.NaN : Number(text);
    if (Number.isInteger(value) && value >= 1 && value <= max) return value;
    return this.#refuse(name, text, `a whole number from 1 to ${max}`);
  }

  end(): void {
    const [extra] = this.#values.keys();
    if (extra !== undefined) fail(`${this.#process}: '${extra}' is not one of its parts`);
  }

  #refuse(name: string, text: string | undefined, must: string): never {
    const what = text === undefined ? 'is missing' : `is '${text}'`;
    return fail(`${this.#process}: ${name} ${what}; it must be ${must}`);
  }
}

function processOf(name: ProcessName, parts: Parts): ArrivalProcess {
  switch (name) {
    case 'burst':
      return { type: 'burst' };
    case 'poisson':
      return { type: 'poisson', ratePerSecond: parts.number('rate', rateMax) };
    case 'gamma':
      return {
        type: 'gamma',
        ratePerSecond: parts.number('rate', rateMax),
        variation: parts.number('variation', 100),
      };
  }
}

function lengthsOf(parts: Parts): Lengths {
  const name = parts.take('lengths');
  if (name === undefined) {
    const promptTokens = parts.whole('prompt', lengthTokensMax);
    return { type: 'fixed', promptTokens, outputTokens: parts.whole('output', lengthTokensMax) };
  }
  if (Object.hasOwn(lengthModels, name)) return { type: 'model', name: name as LengthModelName };
  const known = Object.keys(lengthModels).join(', ');
  return fail(`lengths is '${name}'; it must be one of ${known}, or give prompt= and output=`);
}

/**
 * `poisson:rate=2,count=1000,lengths=sharegpt`, `gamma:rate=2,variation=3,...`, `burst:count=10,prompt=512,output=64`; anything else is the
 * path of a trace file. Throws usage naming the wrong part.
 */
export function parseTraceSource(text: string): TraceSource {
  const colon = text.indexOf(':');
  const name = processes.find((process) => process === text.slice(0, Math.max(colon, 0)));
  if (name === undefined) return { type: 'file', path: text };
  const parts = new Parts(name, text.slice(colon + 1));
  const trace = {
    process: processOf(name, parts),
    count: parts.whole('count', arrivalsMax),
    lengths: lengthsOf(parts),
  };
  parts.end();
  return { type: 'generated', trace };
}
