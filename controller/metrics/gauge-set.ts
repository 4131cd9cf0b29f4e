import { Gauge, type Registry } from 'prom-client';

/** Gauges of what is read all at once. */
export class GaugeSet<Values> {
  readonly #registers: Registry[];
  readonly #shows: ((values: Values) => void)[] = [];

  constructor(registry: Registry) {
    this.#registers = [registry];
  }

  add(name: string, help: string, read: (values: Values) => number): void {
    const gauge = new Gauge({ name, help, registers: this.#registers });
    this.#shows.push((values) => gauge.set(read(values)));
  }

  show(values: Values): void {
    for (const show of this.#shows) show(values);
  }
}
