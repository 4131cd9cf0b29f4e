import type { Arrival } from './trace/arrival.ts';

/** The life of one request. */
export interface RequestRecord {
  readonly arrival: Arrival;
  firstTokenSeconds: number;
  lastTokenSeconds: number;
  tokens: number;
  outcome:
    | 'running'
    | 'completed'
    | 'failed'
    | 'refused-too-long'
    | 'refused-overloaded'
    | 'refused-not-ready';
}

/** What happened to each request of the trace, by its index there. */
export class RequestLog {
  readonly records: RequestRecord[];
  /** Seconds at which tokens came, in order: one entry each. */
  readonly tokenSeconds: number[] = [];

  constructor(trace: readonly Arrival[]) {
    this.records = trace.map((arrival) => ({
      arrival,
      firstTokenSeconds: 0,
      lastTokenSeconds: 0,
      tokens: 0,
      outcome: 'running',
    }));
  }

  #record(index: number): RequestRecord {
    const record = this.records[index];
    if (record?.outcome !== 'running') throw new Error(`request ${index} is over already`);
    return record;
  }

  token(index: number, atSeconds: number): void {
    const record = this.#record(index);
    if (record.tokens === 0) record.firstTokenSeconds = atSeconds;
    record.lastTokenSeconds = atSeconds;
    record.tokens += 1;
    this.tokenSeconds.push(atSeconds);
  }

  end(index: number, outcome: Exclude<RequestRecord['outcome'], 'running'>): void {
    this.#record(index).outcome = outcome;
  }

  /** Of the first `arrived` requests, those that are not over. */
  running(arrived: number): number[] {
    return this.records
      .slice(0, arrived)
      .flatMap(({ outcome }, index) => (outcome === 'running' ? [index] : []));
  }
}
