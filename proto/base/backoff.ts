const delayMs = { first: 200, max: 2_000 };

/** How long to wait before trying again: doubles with each attempt (from 0) up to a bound; half of it is chance, in [0, 1]. Pure. */
export function backoffDelayMs(attempt: number, chance: number): number {
  const full = Math.min(delayMs.max, delayMs.first * 2 ** Math.min(attempt, 30));
  return full * (0.5 + 0.5 * chance);
}
