/**
 * Seeded chance for simulations: the same seed gives the same draws on every machine. A 32-bit Weyl sequence through a mixing function
 * (the constants are those of the splitmix family); statistical quality is enough for arrivals and lengths, not for secrets.
 */
export class Random {
  #state: number;

  /** `seed`: a whole number of at least 0. */
  constructor(seed: number) {
    // Both halves of a large seed count.
    this.#state = (seed ^ Math.floor(seed / 2 ** 32)) >>> 0;
  }

  #next(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  }

  /** Above 0 and below 1. */
  uniform(): number {
    return (this.#next() + 0.5) / 2 ** 32;
  }

  /** Mean 1. */
  exponential(): number {
    return -Math.log(this.uniform());
  }

  /** Mean 0, standard deviation 1. */
  normal(): number {
    return Math.sqrt(2 * this.exponential()) * Math.cos(2 * Math.PI * this.uniform());
  }

  /** Mean `shape`, variance `shape`; Marsaglia and Tsang's rejection method, boosted below a shape of 1. */
  gamma(shape: number): number {
    if (shape < 1) return this.gamma(shape + 1) * this.uniform() ** (1 / shape);
    const d = shape - 1 / 3;
    const c = 1 / Math.sqrt(9 * d);
    for (;;) {
      const x = this.normal();
      const v = (1 + c * x) ** 3;
      if (v <= 0) continue;
      if (Math.log(this.uniform()) < (x * x) / 2 + d - d * v + d * Math.log(v)) return d * v;
    }
  }
}
