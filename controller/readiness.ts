import { type Group, isServing } from './cluster/group.ts';
import { limits } from './limits.ts';

/**
 * Whether requests should be sent here, for /ready: a real token went through every rank of the epoch, or, while plans change, through
 * those of the plan before a moment ago. `silentSinceMs`: since when no step was answered, as EngineGroup has it. Pure.
 */
export function readinessOf(
  group: Pick<Group, 'phase' | 'detail' | 'epoch'>,
  silentSinceMs: number | null,
  nowMs: number,
): { ready: boolean; reason: string } {
  const { phase, detail, epoch } = group;
  const state = detail === '' ? phase : `${phase}: ${detail}`;
  if (!isServing(group)) return { ready: false, reason: state };
  const silentMs = silentSinceMs === null ? 0 : nowMs - silentSinceMs;
  if (silentMs <= limits.silentReadyMsMax) return { ready: true, reason: state };
  return {
    ready: false,
    reason: `${state}; no token went through the ranks of epoch ${epoch} yet`,
  };
}
