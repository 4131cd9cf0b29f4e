import { Counter, Histogram, type Registry } from 'prom-client';
import type { ErrorCode } from '../../proto/domain/errors.ts';
import { GaugeSet } from './gauge-set.ts';
import { ReplanMetrics } from './replan-metrics.ts';
import { type ResidencyGauges, ResidencyMetrics } from './residency-metrics.ts';
import { SeriesOfWorkers } from './series-of-workers.ts';

/** What is read at the moment of a scrape. */
export interface ServingGauges extends ResidencyGauges {
  requestsRunning: number;
  requestsWaiting: number;
  kvBlocksUsed: number;
  kvBlocksTotal: number;
  kvBlocksCached: number;
  workersAlive: number;
  epoch: number;
}

/** Interactive answers lie between a millisecond and minutes; the steps are about 2 and 2.5, as Prometheus histograms use them. */
const latencyBuckets = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120,
];

/** The goals of a good fit, 10 % in the median and 25 % at the 95th percentile, are borders. */
const errorBuckets = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];

/** The metrics of serving. Whoever measures observes; nothing here reads a clock. Seconds throughout. */
export class ServingMetrics {
  readonly contentType: string;
  readonly residency: ResidencyMetrics;
  readonly replans: ReplanMetrics;
  /** Arrival of the request to its first token. */
  readonly timeToFirstToken: Histogram;
  /** (last token - first token) / (tokens - 1) of one answer. */
  readonly timePerOutputToken: Histogram;
  /** Between two tokens of one answer. */
  readonly interTokenLatency: Histogram;
  /** Arrival in the scheduler's queue to the first step. */
  readonly requestQueue: Histogram;
  /** Forward pass of a step over all ranks. */
  readonly step: Histogram;
  readonly promptTokens: Counter;
  readonly tokensGenerated: Counter;
  readonly sequencesPreempted: Counter;
  readonly requestsResumed: Counter;
  readonly workersLost: Counter;
  readonly prefixQueryTokens: Counter;
  readonly prefixHitTokens: Counter;
  readonly prefixEvictions: Counter;
  readonly #registry: Registry;
  readonly #gauges: () => ServingGauges;
  readonly #shown: GaugeSet<ServingGauges>;
  readonly #requests: Counter<'outcome'>;
  readonly #predictionErrors: Histogram<'worker'>;
  readonly #predictedWorkers = new SeriesOfWorkers();

  constructor(registry: Registry, gauges: () => ServingGauges) {
    const registers = [registry];
    const histogram = (name: string, help: string) =>
      new Histogram({ name, help, buckets: latencyBuckets, registers });
    const counter = (name: string, help: string) => new Counter({ name, help, registers });
    this.#registry = registry;
    this.#gauges = gauges;
    this.contentType = registry.contentType;
    this.timeToFirstToken = histogram(
      'hels_time_to_first_token_seconds',
      'Arrival of a request to its first token',
    );
    this.timePerOutputToken = histogram(
      'hels_time_per_output_token_seconds',
      'Mean time per token of an answer after its first',
    );
    this.interTokenLatency = histogram(
      'hels_inter_token_latency_seconds',
      'Time between two tokens of an answer',
    );
    this.requestQueue = histogram(
      'hels_request_queue_seconds',
      'Time a request waits before its first step',
    );
    this.step = histogram('hels_step_seconds', 'Forward pass of one step over all ranks');
    this.promptTokens = counter('hels_prompt_tokens_total', 'Tokens of prompts accepted');
    this.tokensGenerated = counter('hels_tokens_generated_total', 'Tokens generated');
    this.sequencesPreempted = counter(
      'hels_sequences_preempted_total',
      'Sequences that gave way to older ones when KV ran out',
    );
    this.requestsResumed = counter(
      'hels_requests_resumed_total',
      'Running requests that went on in another epoch after theirs had ended, after the loss of a worker mostly',
    );
    this.workersLost = counter(
      'hels_workers_lost_total',
      'Workers that fell silent or started again without having said goodbye',
    );
    this.prefixQueryTokens = counter(
      'hels_prefix_cache_query_tokens_total',
      'Tokens of prompts looked up in the prefix cache',
    );
    this.prefixHitTokens = counter(
      'hels_prefix_cache_hit_tokens_total',
      'Tokens of prompts whose KV came from the prefix cache',
    );
    this.prefixEvictions = counter(
      'hels_prefix_cache_evicted_blocks_total',
      'Cached KV blocks given away for other tokens',
    );
    this.#requests = new Counter({
      name: 'hels_requests_total',
      help: 'Answers by how they ended: stop, length or an error code of the controller, such as worker-lost',
      labelNames: ['outcome'],
      registers,
    });
    this.#predictionErrors = new Histogram({
      name: 'hels_step_prediction_error_ratio',
      help: "|measured - predicted| / measured of a rank's kernels in one step, by the lines as fitted",
      labelNames: ['worker'],
      buckets: errorBuckets,
      registers,
    });
    this.residency = new ResidencyMetrics(registry);
    this.replans = new ReplanMetrics(registry);
    this.#shown = gaugesOf(registry);
  }

  /** All of it in the text format of Prometheus. The gauges are read once: counting KV takes time that those who wait for tokens have not. */
  async text(): Promise<string> {
    const values = this.#gauges();
    this.#shown.show(values);
    this.residency.show(values);
    this.#predictedWorkers.forgetGone(values.workersRegistered, (worker) =>
      this.#predictionErrors.remove({ worker }),
    );
    return await this.#registry.metrics();
  }

  /** One rank's kernels in one step. */
  error(workerId: string, ratio: number): void {
    this.#predictedWorkers.add(workerId);
    this.#predictionErrors.observe({ worker: workerId }, ratio);
  }

  requestEnded(outcome: 'stop' | 'length' | ErrorCode): void {
    this.#requests.inc({ outcome });
  }
}

function gaugesOf(registry: Registry): GaugeSet<ServingGauges> {
  const gauges = new GaugeSet<ServingGauges>(registry);
  gauges.add('hels_requests_running', 'Sequences being computed', (v) => v.requestsRunning);
  gauges.add('hels_requests_waiting', 'Requests in the queue', (v) => v.requestsWaiting);
  gauges.add('hels_kv_blocks_used', 'KV blocks in use', (v) => v.kvBlocksUsed);
  gauges.add(
    'hels_kv_blocks_cached',
    'KV blocks that nobody uses and that hold a prefix',
    (v) => v.kvBlocksCached,
  );
  gauges.add('hels_kv_blocks_total', 'KV blocks of the plan', (v) => v.kvBlocksTotal);
  gauges.add('hels_workers_alive', 'Workers that answer heartbeats', (v) => v.workersAlive);
  gauges.add('hels_plan_epoch', 'Version of the plan being served', (v) => v.epoch);
  return gauges;
}
