/** What moving KV that has no room costs a decode step (docs/planner.md). Pure. */
import type { PlanDevice, PlanInput } from '../../proto/domain/plan.ts';

/** Eviction is allowed, and it is known what a move takes and for how many steps a sequence then runs. */
export function movesArePriced({ workload, devices }: PlanInput): boolean {
  const { allowEviction, outputTokens } = workload;
  const known = devices.some(({ restore }) => (restore?.reloadSecondsPerTokenHeadGroup ?? 0) > 0);
  return allowEviction === true && outputTokens > 0 && known;
}

/** Seconds of a decode step for each head group of a device, with so many of the sequences resident: away and back once a residency. */
export function evictionSecondsPerHeadGroup(
  device: Pick<PlanDevice, 'restore'>,
  { sequences, contextTokens, outputTokens }: PlanInput['workload'],
  residentSequences: number,
): number {
  if (outputTokens === 0) return 0;
  const movedTokens = 2 * (sequences - residentSequences) * contextTokens;
  const seconds = device.restore?.reloadSecondsPerTokenHeadGroup ?? 0;
  return (movedTokens * seconds) / outputTokens;
}
