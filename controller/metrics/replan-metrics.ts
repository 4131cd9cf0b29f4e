import { Counter, Histogram, type Registry } from 'prom-client';

/** From moving nothing on one host to loading a large model anew. */
const pauseBuckets = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900];

/** A re-plan as far as it is counted. */
interface CountedReplan {
  readonly outcome: string;
  readonly kv: string;
  readonly pauseSeconds: number;
  readonly predicted: { readonly seconds: number } | null;
  readonly weightBytesLoaded: number;
  readonly kvBytesMoved: number;
}

/** The metrics of plans that change while requests run (docs/operating.md). Seconds and bytes. */
export class ReplanMetrics {
  readonly #replans: Counter<'outcome' | 'kv'>;
  readonly #pause: Histogram;
  readonly #predictedPause: Histogram;
  readonly #loadedBytes: Counter;
  readonly #movedBytes: Counter;

  constructor(registry: Registry) {
    const registers = [registry];
    const histogram = (name: string, help: string) =>
      new Histogram({ name, help, buckets: pauseBuckets, registers });
    const counter = (name: string, help: string) => new Counter({ name, help, registers });
    this.#replans = new Counter({
      name: 'hels_replan_total',
      help: 'Re-plans by outcome (applied, undone, failed) and by what became of the KV (migrated, replayed)',
      labelNames: ['outcome', 'kv'],
      registers,
    });
    this.#pause = histogram(
      'hels_replan_pause_seconds',
      'From the last answered step before a re-plan to the first one after it',
    );
    this.#predictedPause = histogram(
      'hels_replan_predicted_pause_seconds',
      'The same as it was predicted beforehand',
    );
    this.#loadedBytes = counter(
      'hels_replan_weight_bytes_loaded_total',
      'Weights that re-plans read from files',
    );
    this.#movedBytes = counter(
      'hels_replan_kv_bytes_moved_total',
      'KV that re-plans moved between workers',
    );
  }

  replanned(replan: CountedReplan): void {
    const { outcome, kv, pauseSeconds, predicted, weightBytesLoaded, kvBytesMoved } = replan;
    this.#replans.inc({ outcome, kv });
    this.#pause.observe(pauseSeconds);
    // What is gone back on was not what was predicted.
    if (outcome === 'applied') this.#predictedPause.observe(predicted?.seconds ?? 0);
    this.#loadedBytes.inc(weightBytesLoaded);
    this.#movedBytes.inc(kvBytesMoved);
  }

  replanFailed(): void {
    this.#replans.inc({ outcome: 'failed', kv: '' });
  }
}
