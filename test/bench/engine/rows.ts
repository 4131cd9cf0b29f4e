/** One shape at one number of threads: every contender's rows, side by side, and the goals that they are held to. */
import { atLeast, atMost, type Goal, shown } from '../benchmark.ts';
import { type ModelShape, weightBytesPerStep } from '../random-model.ts';
import type { Contender } from './contender.ts';
import {
  batches,
  decode,
  type Loaded,
  openPeer,
  prefill,
  prefillTokens,
  startHels,
  startPeer,
  startTwoRanks,
} from './contenders.ts';
import { interleave, repetitions, repetitionsOfOne } from './interleave.ts';
import { type Limits, measureLimits } from './limits.ts';

export interface Subject {
  shape: ModelShape;
  directory: string;
  weightBytes: number;
  gguf: string;
  /** Where llama.cpp is installed; null: it does not load here. */
  peer: string | null;
  /** Whether ceiling_bench could be built. */
  ceilings: boolean;
}

export type Row = Record<string, string | number | null>;

export interface Results {
  speeds: Row[];
  loads: Row[];
  limits: Row[];
  twoRanks: Row[];
  goals: Goal[];
  /** A line on what has just been measured. */
  log(line: string): void;
}

/** A row's measured step: all sequences' one token, or one sequence's prompt. */
interface Step {
  name: string;
  tokens: number;
  prefill: boolean;
}

const steps: readonly Step[] = [
  { name: `prefill ${prefillTokens}`, tokens: prefillTokens, prefill: true },
  ...batches.map((batch) => ({ name: `decode ${batch}`, tokens: batch, prefill: false })),
];

function measureOf(contender: Contender, { prefill: isPrefill, tokens }: Step) {
  return (count: number) => (isPrefill ? prefill(contender) : decode(contender, tokens, count));
}

/** Tokens per second that the machine allows a step: by reading every weight at batch 1, by the products alone above. */
function limitOf(step: Step, limits: Limits, shape: ModelShape): number {
  if (!step.prefill && step.tokens === 1) {
    return limits.readBytesPerSecond / weightBytesPerStep(shape);
  }
  return step.tokens / limits.productSeconds;
}

/** How much the bandwidth changed while the rows were measured. */
function addReadings(results: Results, { shape }: Subject, measured: readonly Limits[]): void {
  const [first] = measured;
  if (first === undefined) return;
  results.limits.push({
    model: shape.name,
    threads: first.threads,
    'slowest reading GB/s': Math.min(...measured.map((one) => one.readBytesPerSecond)) / 1e9,
    'fastest reading GB/s': Math.max(...measured.map((one) => one.readBytesPerSecond)) / 1e9,
    'over MiB': first.readBytes / 2 ** 20,
  });
}

const ratio = (value: number, other: number | null) => (other === null ? null : value / other);

/** At least so many times the peer's speed, and so much of the limit; null: no goal. */
function boundsOf({ prefill: isPrefill, tokens }: Step): { peer: number; limit: number } | null {
  if (isPrefill) return { peer: 1.4, limit: 0.8 };
  if (tokens === 1) return { peer: 1, limit: 0.85 };
  if (tokens === 8) return { peer: 1.5, limit: 0.75 };
  return tokens <= 32 ? { peer: 1.8, limit: 0.75 } : null;
}

function goalsOf(step: Step, where: string, row: Row): Goal[] {
  const goals: Goal[] = [];
  const bounds = boundsOf(step);
  const named = (what: string) => `${where}: ${step.name}, exact: ${what}`;
  const [ofPeer, ofLimit, ofFast] = [row['exact/peer'], row['exact/limit'], row['exact/fast']];
  if (bounds !== null && typeof ofPeer === 'number') {
    goals.push(atLeast(named('times llama.cpp'), ofPeer, bounds.peer));
  }
  if (bounds !== null && typeof ofLimit === 'number') {
    const limit =
      step.tokens === 1 ? 'share of the bandwidth limit' : 'share of the products alone';
    goals.push(atLeast(named(limit), ofLimit, bounds.limit));
  }
  const nearFast = step.prefill || (step.tokens >= 8 && step.tokens <= 32);
  if (nearFast && typeof ofFast === 'number') {
    goals.push(atLeast(named('times fast'), ofFast, step.prefill ? 0.95 : 0.9));
  }
  return goals;
}

function addLoads(results: Results, subject: Subject, threads: number, loaded: readonly Loaded[]) {
  for (const { contender, loadSeconds, loadBytes } of loaded) {
    results.loads.push({
      model: subject.shape.name,
      threads,
      engine: contender.name,
      'load s': loadSeconds,
      'memory MB': loadBytes / 1e6,
      'weights MB': subject.weightBytes / 1e6,
      'memory/weights': loadBytes / subject.weightBytes,
    });
    if (contender.name !== 'hels exact') continue;
    const name = `${subject.shape.name}, threads ${threads}: memory after load, KV not written, in weights`;
    results.goals.push(atMost(name, loadBytes / subject.weightBytes, 1.1));
  }
}

async function measureSteps(
  results: Results,
  subject: Subject,
  threads: number,
  contenders: readonly Contender[],
): Promise<void> {
  const { shape, ceilings } = subject;
  const where = `${shape.name}, threads ${threads}`;
  const limits: Limits[] = [];
  for (const step of steps) {
    const measureLimit = () => {
      if (!ceilings) return null;
      const measured = measureLimits(shape, threads, step.tokens, step.prefill);
      limits.push(measured);
      return limitOf(step, measured, shape);
    };
    // Before and after: the host gives more at some times than at others.
    const before = measureLimit();
    const measures = contenders.map((contender) => measureOf(contender, step));
    const isOne = !step.prefill && step.tokens === 1;
    const seconds = await interleave(measures, isOne ? repetitionsOfOne : repetitions);
    const speeds = seconds.map((value) => step.tokens / value);
    const [exact = Number.NaN, fast = Number.NaN, peer = null] = speeds;
    const after = measureLimit();
    const limit = before === null || after === null ? null : Math.max(before, after);
    const row: Row = {
      model: shape.name,
      threads,
      step: step.name,
      'exact tok/s': exact,
      'fast tok/s': fast,
      'llama.cpp tok/s': peer,
      'exact/peer': ratio(exact, peer),
      'fast/peer': ratio(fast, peer),
      'exact/fast': exact / fast,
      'limit tok/s': limit,
      'exact/limit': ratio(exact, limit),
      'peer/limit': peer === null ? null : ratio(peer, limit),
    };
    results.speeds.push(row);
    const shownSpeeds = speeds.map(shown).join(', ');
    results.log(`${where}: ${step.name}: exact, fast, llama.cpp ${shownSpeeds} tokens/s`);
    results.goals.push(...goalsOf(step, where, row));
  }
  addReadings(results, subject, limits);
}

/** Adds the rows of `subject` with `threads` threads to `results`. */
export async function measureShape(
  results: Results,
  subject: Subject,
  threads: number,
): Promise<void> {
  const { directory } = subject;
  const loaded: Loaded[] = [];
  try {
    loaded.push(await startHels({ directory, threads, numerics: 'exact' }));
    loaded.push(await startHels({ directory, threads, numerics: 'fast' }));
    if (subject.peer !== null) {
      const peer = await startPeer(subject.peer, subject.gguf);
      loaded.push(peer);
      await openPeer(peer.contender, threads);
    }
    addLoads(results, subject, threads, loaded);
    const contenders = loaded.map(({ contender }) => contender);
    await measureSteps(results, subject, threads, contenders);
  } finally {
    await Promise.all(loaded.map(({ contender }) => contender.stop()));
  }
}

const twoRankBatches = [1, 8, 32];

/** Two ranks with a thread each beside one rank with two threads. */
export async function measureTwoRanks(results: Results, subject: Subject): Promise<void> {
  const { directory, shape } = subject;
  const one = await startHels({ directory, threads: 2, numerics: 'exact' });
  const two = await startTwoRanks(directory).catch(async (error: unknown) => {
    await one.contender.stop();
    throw error;
  });
  try {
    for (const batch of twoRankBatches) {
      const [single = Number.NaN, pair = Number.NaN] = await interleave([
        (count) => decode(one.contender, batch, count),
        async (count) =>
          Math.max(...(await Promise.all(two.map((rank) => decode(rank, batch, count))))),
      ]);
      const row = {
        model: shape.name,
        step: `decode ${batch}`,
        'one rank, 2 threads tok/s': batch / single,
        'two ranks tok/s': batch / pair,
        'two/one': single / pair,
      };
      results.twoRanks.push(row);
      results.log(`${shape.name}: ${row.step}: two ranks ${shown(row['two/one'])} times one`);
      const name = `${shape.name}: decode ${batch}: two ranks, times one with two threads`;
      results.goals.push(atLeast(name, row['two/one'], 0.9));
    }
  } finally {
    await Promise.all([one.contender, ...two].map((contender) => contender.stop()));
  }
}
