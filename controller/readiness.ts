import { type Group, isServing } from './cluster/group.ts';
import { limits } from './limits.ts';

export interface Readiness {
  readonly ready: boolean;
  /** For everybody. */
  readonly phase: string;
  /** With the group's detail, which may name files, workers and addresses. */
  readonly reason: string;
}

/**
 * Whether requests should be sent here, for /ready: a real token went through every rank of the epoch, or, while plans change, through
 * those of the plan before a moment ago. `silentSinceMs`: since when no step was answered, as EngineGroup has it. Pure.
 */
export function readinessOf(
  group: Pick<Group, 'phase' | 'detail' | 'epoch'>,
  silentSinceMs: number | null,
  nowMs: number,
): Readiness {
  const { phase, detail, epoch } = group;
  const silentMs = silentSinceMs === null ? 0 : nowMs - silentSinceMs;
  const isSilent = isServing(group) && silentMs > limits.silentReadyMsMax;
  const silence = isSilent ? `; no token went through the ranks of epoch ${epoch} yet` : '';
  return {
    ready: isServing(group) && !isSilent,
    phase: `${phase}${silence}`,
    reason: `${detail === '' ? phase : `${phase}: ${detail}`}${silence}`,
  };
}
