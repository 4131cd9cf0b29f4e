import type { PlanPolicy } from '../../proto/domain/plan.ts';
import { quantile } from '../../proto/domain/quantile.ts';
import type { RequestRecord } from './request-log.ts';
import type { SimulatedEpoch } from './simulated-epoch.ts';
import type { RankUse } from './simulated-ranks.ts';

/** Targets of one request. */
export interface ServiceLevel {
  readonly ttftSeconds: number;
  readonly tpotSeconds: number;
}

/** Interpolated between neighbours; all 0 when there are no values. */
export interface Percentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p95: number;
  readonly p99: number;
}

export interface SimulationReport {
  readonly policy: PlanPolicy;
  /** Whether all KV of the planned workload is resident; the trace is served either way. */
  readonly feasible: boolean;
  readonly seed: number;
  readonly requests: {
    readonly arrived: number;
    readonly completed: number;
    /** Longer than the model's positions or the KV room. */
    readonly refusedTooLong: number;
    readonly refusedOverloaded: number;
    /** Arrived while no epoch served. */
    readonly refusedNotReady: number;
    /** Their epoch ended when a device was lost, and no other could take them over. */
    readonly failed: number;
  };
  /** Plans that served, one after the other. */
  readonly epochs: number;
  /** From the first arrival to the last token. */
  readonly makespanSeconds: number;
  readonly throughput: {
    readonly requestsPerSecond: number;
    readonly outputTokensPerSecond: number;
    /** Prompt tokens of completed requests and all output tokens. */
    readonly tokensPerSecond: number;
    /** Output tokens per second over windows of `windowSeconds`. */
    readonly windowSeconds: number;
    readonly windows: Percentiles;
  };
  /** Completed requests that met both targets. */
  readonly goodput: ServiceLevel & {
    readonly requestsPerSecond: number;
    readonly shareOfArrived: number;
  };
  /** Arrival to first token. */
  readonly ttftSeconds: Percentiles;
  /** (last - first)/(n - 1), requests of two tokens and more. */
  readonly tpotSeconds: Percentiles;
  /** Output tokens of a request over its seconds from arrival to last token; p95 is what 95 % of the requests reach at least. */
  readonly requestTokensPerSecond: Percentiles;
  readonly kv: {
    /** Room of the first epoch. */
    readonly tokens: number;
    /** Share of the blocks in use, over time. */
    readonly meanShare: number;
    readonly maxShare: number;
  };
  readonly preemptions: number;
  readonly steps: number;
  readonly outputTokens: number;
  readonly computedTokens: number;
  /** Computed before and again after a preemption or the loss of a device. */
  readonly recomputedTokens: number;
  /** `idleShare`: of the time in which steps ran, what the rank waited for slower ones. */
  readonly ranks: readonly (RankUse & { readonly idleShare: number })[];
}

export interface SimulationOutcome {
  readonly policy: PlanPolicy;
  readonly feasible: boolean;
  readonly seed: number;
  readonly serviceLevel: ServiceLevel;
  readonly records: readonly RequestRecord[];
  readonly tokenSeconds: readonly number[];
  /** All devices, used or not. */
  readonly devices: readonly string[];
  readonly epochs: readonly SimulatedEpoch[];
  readonly kvBlockTokens: number;
  /** Share of the blocks in use, summed over time. */
  readonly kvShareSeconds: number;
}

/** Long enough for many steps, short enough to see load come and go. */
const windowSeconds = 10;

export const ttftOf = (record: RequestRecord): number =>
  record.firstTokenSeconds - record.arrival.atSeconds;

/** 0 for a single token. */
export const tpotOf = (record: RequestRecord): number =>
  record.tokens > 1
    ? (record.lastTokenSeconds - record.firstTokenSeconds) / (record.tokens - 1)
    : 0;

const rateOf = (record: RequestRecord): number =>
  record.tokens / (record.lastTokenSeconds - record.arrival.atSeconds);

const over = (value: number, seconds: number): number => (seconds > 0 ? value / seconds : 0);

function percentiles(values: readonly number[], descending = false): Percentiles {
  const sorted = [...values].sort((left, right) => (descending ? right - left : left - right));
  const at = (share: number): number => quantile(sorted, share);
  return { p50: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99) };
}

/** Output tokens per second of every whole window, or of the whole when it is shorter than one. */
function windowRates(tokenSeconds: readonly number[], begin: number, makespan: number): number[] {
  const count = Math.floor(makespan / windowSeconds);
  if (count === 0) return [over(tokenSeconds.length, makespan)];
  const tokens = new Array<number>(count).fill(0);
  for (const atSeconds of tokenSeconds) {
    const window = Math.floor((atSeconds - begin) / windowSeconds);
    if (window < count) tokens[window] = (tokens[window] ?? 0) + 1;
  }
  return tokens.map((value) => value / windowSeconds);
}

function throughputOf(outcome: SimulationOutcome, completed: readonly RequestRecord[]) {
  const { records, tokenSeconds } = outcome;
  const begin = records[0]?.arrival.atSeconds ?? 0;
  const makespanSeconds = Math.max(0, (tokenSeconds.at(-1) ?? begin) - begin);
  const promptTokens = completed.reduce((sum, { arrival }) => sum + arrival.promptTokens, 0);
  return {
    makespanSeconds,
    throughput: {
      requestsPerSecond: over(completed.length, makespanSeconds),
      outputTokensPerSecond: over(tokenSeconds.length, makespanSeconds),
      tokensPerSecond: over(promptTokens + tokenSeconds.length, makespanSeconds),
      windowSeconds,
      windows: percentiles(windowRates(tokenSeconds, begin, makespanSeconds)),
    },
  };
}

/** What each device did, over all epochs; unused ones are left out. */
function rankReports({ devices, epochs }: SimulationOutcome): SimulationReport['ranks'] {
  return devices.flatMap((device) => {
    const served = epochs.flatMap(({ ranks }) => {
      const use = ranks.use.find((rank) => rank.device === device);
      return use === undefined ? [] : [{ ...use, stepSeconds: ranks.stepSeconds }];
    });
    if (served.length === 0) return [];
    const sum = (pick: (use: (typeof served)[number]) => number): number =>
      served.reduce((total, use) => total + pick(use), 0);
    const computeSeconds = sum((use) => use.computeSeconds);
    const linkSeconds = sum((use) => use.linkSeconds);
    // Sums of many steps: the slowest rank's may exceed the steps' by rounding.
    const idle =
      1 -
      over(
        computeSeconds + linkSeconds,
        sum((use) => use.stepSeconds),
      );
    return [{ device, computeSeconds, linkSeconds, idleShare: Math.max(0, idle) }];
  });
}

function requestCounts(records: readonly RequestRecord[]): SimulationReport['requests'] {
  const count = (wanted: RequestRecord['outcome']): number =>
    records.filter(({ outcome }) => outcome === wanted).length;
  return {
    arrived: records.length,
    completed: count('completed'),
    refusedTooLong: count('refused-too-long'),
    refusedOverloaded: count('refused-overloaded'),
    refusedNotReady: count('refused-not-ready'),
    failed: count('failed'),
  };
}

/** What people compare, from what happened. */
export function simulationReport(outcome: SimulationOutcome): SimulationReport {
  const { policy, feasible, seed, serviceLevel, records, epochs } = outcome;
  const completed = records.filter((record) => record.outcome === 'completed');
  const { makespanSeconds, throughput } = throughputOf(outcome, completed);
  const good = completed.filter(
    (record) =>
      ttftOf(record) <= serviceLevel.ttftSeconds && tpotOf(record) <= serviceLevel.tpotSeconds,
  );
  const sum = (pick: (epoch: SimulatedEpoch) => number): number =>
    epochs.reduce((total, epoch) => total + pick(epoch), 0);
  return {
    policy,
    feasible,
    seed,
    requests: requestCounts(records),
    epochs: epochs.length,
    makespanSeconds,
    throughput,
    goodput: {
      ...serviceLevel,
      requestsPerSecond: over(good.length, makespanSeconds),
      shareOfArrived: over(good.length, records.length),
    },
    ttftSeconds: percentiles(completed.map(ttftOf)),
    tpotSeconds: percentiles(completed.filter(({ tokens }) => tokens > 1).map(tpotOf)),
    requestTokensPerSecond: percentiles(completed.map(rateOf), true),
    kv: {
      tokens: (epochs[0]?.kvBlocks ?? 0) * outcome.kvBlockTokens,
      meanShare: over(outcome.kvShareSeconds, makespanSeconds),
      maxShare: Math.max(...epochs.map(({ kvBlocksMax, kvBlocks }) => kvBlocksMax / kvBlocks)),
    },
    preemptions: sum(({ scheduler }) => scheduler.counts.preempted),
    steps: sum(({ steps }) => steps),
    outputTokens: outcome.tokenSeconds.length,
    computedTokens: sum(({ computedTokens }) => computedTokens),
    recomputedTokens: sum(({ recomputedTokens }) => recomputedTokens),
    ranks: rankReports(outcome),
  };
}
