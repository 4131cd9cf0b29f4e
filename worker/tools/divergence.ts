/** How far a distribution over the next token is from the reference's. Pure. */

export interface Divergence {
  /** Kullback-Leibler divergence of the reference's distribution to the computed one, nats, mean over the positions. */
  klMean: number;
  klMax: number;
  /** Share of the positions at which both prefer the same token. */
  topTokenAgreement: number;
}

function logSoftmax(logits: ArrayLike<number>): Float64Array {
  const values = Float64Array.from(logits);
  const largest = values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const sum = values.reduce((total, value) => total + Math.exp(value - largest), 0);
  return values.map((value) => value - largest - Math.log(sum));
}

function indexOfLargest(logits: ArrayLike<number>): number {
  let best = 0;
  for (let index = 1; index < logits.length; index += 1) {
    if ((logits[index] as number) > (logits[best] as number)) best = index;
  }
  return best;
}

/** Of rows of logits, one for each position. NaN where one is not a number. */
export function divergenceOf(
  reference: readonly ArrayLike<number>[],
  computed: readonly ArrayLike<number>[],
): Divergence {
  const kl = reference.map((row, position) => {
    const expected = logSoftmax(row);
    const found = logSoftmax(computed[position] ?? []);
    return expected.reduce((sum, p, token) => sum + Math.exp(p) * (p - (found[token] ?? NaN)), 0);
  });
  const same = reference.filter(
    (row, position) => indexOfLargest(row) === indexOfLargest(computed[position] ?? []),
  );
  return {
    klMean: kl.reduce((sum, value) => sum + value, 0) / kl.length,
    klMax: kl.reduce((most, value) => Math.max(most, value), 0),
    topTokenAgreement: same.length / reference.length,
  };
}
