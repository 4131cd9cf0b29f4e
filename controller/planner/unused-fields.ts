import type { PlanInput } from '../../proto/domain/plan.ts';
import { movesArePriced } from './eviction-price.ts';

/** `devices[0].restore (and of 2 more devices)`; null: of none. */
function restoreOf(indices: readonly number[]): string | null {
  const [first] = indices;
  if (first === undefined) return null;
  const others = indices.length === 1 ? '' : ` (and of ${indices.length - 1} more devices)`;
  return `devices[${first}].restore${others}`;
}

/** A warning for each kind of field that the contract has, the input gives and this plan does not depend on, or that it lacks beside those. */
export function unusedFieldWarnings(input: PlanInput): string[] {
  const { workload, devices } = input;
  const all = [...devices.keys()];
  if (movesArePriced(input)) {
    const unpriced = restoreOf(
      all.filter((index) => !((devices[index]?.restore?.reloadSecondsPerTokenHeadGroup ?? 0) > 0)),
    );
    if (unpriced === null) return [];
    return [`${unpriced} gives no reloadSecondsPerTokenHeadGroup: moves cost nothing there`];
  }
  const warnings: string[] = [];
  const priced = 'it prices evictions, together with workload.allowEviction and';
  if (workload.outputTokens > 0) {
    warnings.push(
      `workload.outputTokens is ${workload.outputTokens}, and this plan does not depend on it: ${priced} devices[].restore`,
    );
  }
  const given = restoreOf(all.filter((index) => devices[index]?.restore !== undefined));
  if (given !== null) {
    warnings.push(
      `${given} is given, and this plan does not depend on it: ${priced} workload.outputTokens; a served group measures what restoring costs`,
    );
  }
  return warnings;
}
