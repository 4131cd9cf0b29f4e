import type { PlanInput } from '../../proto/domain/plan.ts';

/** A warning for each kind of field that the contract has, the input gives and no plan depends on. */
export function unusedFieldWarnings({ workload, devices }: PlanInput): string[] {
  const warnings: string[] = [];
  if (workload.outputTokens > 0) {
    warnings.push(
      `workload.outputTokens is ${workload.outputTokens}, and no plan depends on it: what is planned is a decode step with workload.contextTokens of context`,
    );
  }
  const restoring = devices.flatMap(({ restore }, index) => (restore === undefined ? [] : [index]));
  const [first] = restoring;
  if (first !== undefined) {
    const others = restoring.length === 1 ? '' : ` (and of ${restoring.length - 1} more devices)`;
    warnings.push(
      `devices[${first}].restore${others} is given, and no plan depends on it: a served group measures what restoring costs`,
    );
  }
  return warnings;
}
