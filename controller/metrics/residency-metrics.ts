import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import { GaugeSet } from './gauge-set.ts';
import { SeriesOfWorkers } from './series-of-workers.ts';

/** Tokens of the group's sequences by where one rank's KV of them is; whole blocks. */
export interface RankKvTokens {
  readonly workerId: string;
  /** On its own device, in use. */
  readonly resident: number;
  /** In use, on another rank that attends for it. */
  readonly remote: number;
  /** Of sequences that wait: on its device or in its host memory. */
  readonly parked: number;
  /** Of these, in its host memory. */
  readonly parkedInHost: number;
  /** Of sequences that wait: given up, to be computed again. */
  readonly dropped: number;
  /** In use, of other ranks' heads, for which it attends. */
  readonly held: number;
}

/** What is read at the moment of a scrape. */
export interface ResidencyGauges {
  kvParkedBlocksUsed: number;
  kvParkedBlocksTotal: number;
  /** By rank of the plan. */
  kvOfRanks: readonly RankKvTokens[];
  /** Share of the tokens given to the ranks that had been computed before; 0 before any was. */
  recomputeTax: number;
  /** Names of the workers that are there. */
  workersRegistered: readonly string[];
}

/** A sequence that gives way waits for others to end. */
const waitBuckets = [0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300];

/** The metrics of KV that makes room and comes back (docs/serving.md). Seconds and tokens. */
export class ResidencyMetrics {
  readonly tokensComputed: Counter;
  readonly tokensRecomputed: Counter;
  readonly tokensDropped: Counter;
  readonly tokensDroppedByChoice: Counter;
  /** From giving way to computing again, or to its end. */
  readonly sequenceWait: Histogram;
  readonly #restoredTokens: Counter<'path'>;
  readonly #restoreSeconds: Counter<'path'>;
  readonly #remoteSeconds: Counter<'worker'>;
  readonly #remoteWorkers = new SeriesOfWorkers();
  readonly #shown: GaugeSet<ResidencyGauges>;
  readonly #kvTokens: Gauge<'worker' | 'state'>;

  constructor(registry: Registry) {
    const registers = [registry];
    const counter = <Label extends string>(name: string, help: string, labelNames: Label[] = []) =>
      new Counter<Label>({ name, help, labelNames, registers });
    this.tokensComputed = counter(
      'hels_tokens_computed_total',
      'Tokens of prompts and answers given to the ranks to compute',
    );
    this.tokensRecomputed = counter(
      'hels_tokens_recomputed_total',
      'Tokens among them that had been computed before and were given up',
    );
    this.tokensDropped = counter(
      'hels_kv_dropped_tokens_total',
      'Tokens whose KV was given up to make room',
    );
    this.tokensDroppedByChoice = counter(
      'hels_kv_dropped_by_choice_tokens_total',
      'Tokens among them whose KV could have been parked, but computing them again is cheaper',
    );
    this.sequenceWait = new Histogram({
      name: 'hels_sequence_wait_seconds',
      help: 'Time from giving way to older sequences to computing again, or to the end of the request',
      buckets: waitBuckets,
      registers,
    });
    this.#restoredTokens = counter(
      'hels_kv_restored_tokens_total',
      'Tokens whose KV came back, by path: reload (moved), replay (computed again) or recall (moved home from a loan)',
      ['path'],
    );
    this.#restoreSeconds = counter(
      'hels_kv_restore_seconds_total',
      'Seconds of steps for it: moves away and back on the slowest rank; the share of replayed tokens in a step',
      ['path'],
    );
    this.#remoteSeconds = new Counter({
      name: 'hels_kv_remote_seconds_total',
      help: 'Seconds of steps in which a rank exchanged about KV on loan',
      labelNames: ['worker'],
      registers,
    });
    this.#shown = gaugesOf(registry);
    this.#kvTokens = new Gauge({
      name: 'hels_kv_tokens',
      help: "Tokens by where a rank's KV of them is: resident, remote, parked (parked_host: of these in host memory) or dropped; held: of other ranks; whole blocks",
      labelNames: ['worker', 'state'],
      registers,
    });
  }

  /** At a scrape. */
  show(values: ResidencyGauges): void {
    this.#shown.show(values);
    this.#kvTokens.reset();
    for (const { workerId: worker, parkedInHost, ...tokens } of values.kvOfRanks) {
      const states = { ...tokens, parked_host: parkedInHost };
      for (const [state, count] of Object.entries(states)) {
        this.#kvTokens.set({ worker, state }, count);
      }
    }
    this.#remoteWorkers.forgetGone(values.workersRegistered, (worker) =>
      this.#remoteSeconds.remove({ worker }),
    );
  }

  /** KV that came back in one step. */
  restored(path: 'reload' | 'replay' | 'recall', tokens: number, seconds: number): void {
    this.#restoredTokens.inc({ path }, tokens);
    this.#restoreSeconds.inc({ path }, seconds);
  }

  remote(workerId: string, seconds: number): void {
    if (!(seconds > 0)) return;
    this.#remoteWorkers.add(workerId);
    this.#remoteSeconds.inc({ worker: workerId }, seconds);
  }
}

function gaugesOf(registry: Registry): GaugeSet<ResidencyGauges> {
  const gauges = new GaugeSet<ResidencyGauges>(registry);
  gauges.add('hels_kv_parked_blocks_used', 'Parked KV blocks in use', (v) => v.kvParkedBlocksUsed);
  gauges.add(
    'hels_kv_parked_blocks_total',
    'Parked KV blocks of the plan',
    (v) => v.kvParkedBlocksTotal,
  );
  gauges.add(
    'hels_recompute_tax_ratio',
    'Share of the tokens computed in this epoch that had been computed before',
    (v) => v.recomputeTax,
  );
  return gauges;
}
