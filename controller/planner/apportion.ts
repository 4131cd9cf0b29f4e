/**
 * Whole units in proportion to `weights` (>= 0) by the largest-remainder rule; ties go to the earlier index. All-zero weights count
 * as equal ones. The result sums to `total`.
 */
export function apportion(total: number, weights: readonly number[]): number[] {
  const largest = Math.max(...weights);
  // Scaled by the largest first: sums of huge weights must not overflow. Endless weights share alone.
  const scaled = weights.map((weight) => {
    if (weight === largest) return 1;
    return largest > 0 ? weight / largest : 1;
  });
  const sum = scaled.reduce((left, right) => left + right, 0);
  const exact = scaled.map((weight) => (total * weight) / sum);
  const counts = exact.map((value) => Math.floor(value));
  const missing = total - counts.reduce((left, right) => left + right, 0);
  const byRemainder = exact
    .map((value, index) => ({ index, remainder: value - Math.floor(value) }))
    .sort((left, right) => right.remainder - left.remainder || left.index - right.index);
  for (const { index } of byRemainder.slice(0, missing)) counts[index] = (counts[index] ?? 0) + 1;
  return counts;
}
