/** What the kernels of a plan's ranks promise together, from their fingerprints. Pure. */
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';

/** exact: equal kernels everywhere, so equal bits; mixed: the fingerprints differ; fast: numerics that promise nothing. */
export type NumericsClass = 'exact' | 'mixed' | 'fast';

/** Fingerprints by rank. */
export interface Fingerprinted {
  readonly shardPlan: Pick<ShardPlan__Output, 'numerics' | 'ranks'>;
  readonly fingerprints: readonly string[];
}

export function numericsClassOf(
  { numerics }: Fingerprinted['shardPlan'],
  fingerprints: readonly string[],
): NumericsClass {
  if (numerics === 'fast') return 'fast';
  return new Set(fingerprints).size === 1 ? 'exact' : 'mixed';
}

/** Workers whose kernels give other bits than those of most ranks, of equally many the first rank's; none where bits are not promised. */
export function differingWorkers({ shardPlan, fingerprints }: Fingerprinted): string[] {
  if (numericsClassOf(shardPlan, fingerprints) !== 'mixed') return [];
  const countOf = (fingerprint: string) =>
    fingerprints.filter((other) => other === fingerprint).length;
  const most = Math.max(...fingerprints.map(countOf));
  const common = fingerprints.find((fingerprint) => countOf(fingerprint) === most);
  return shardPlan.ranks
    .filter((_, rank) => fingerprints[rank] !== common)
    .map(({ workerId }) => workerId);
}

/** As Status and PlanReport say it. */
export function exactnessOf(group: Fingerprinted) {
  return {
    exactNumerics: numericsClassOf(group.shardPlan, group.fingerprints) === 'exact',
    differingWorkers: differingWorkers(group),
  };
}
