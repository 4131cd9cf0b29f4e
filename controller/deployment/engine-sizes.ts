/** How much the engine of a deployment runs at once: from the load that the deployment is for. Pure. */
import type { PlanWorkload } from '../../proto/domain/plan.ts';

export interface EngineSizes {
  /** Tokens of one step: bounds the time that a long prompt can hold up the running sequences. */
  readonly stepTokensMax: number;
  /** Sequences that run at once. */
  readonly sequencesMax: number;
}

/** Positions of a KV block without loans; divides the engine's attention chunk of 64. */
export const kvBlockTokens = 16;

/** A load may be more than the one planned for: what costs little is there anyway. */
export const smallestSizes: EngineSizes = { stepTokensMax: 512, sequencesMax: 64 };

/** The steps that the plan was made for can be: a whole chunk, and a token of every sequence beside as many of prompts, or a chunk. */
export function engineSizesOf({
  sequences,
  prefillChunk,
}: Pick<PlanWorkload, 'sequences' | 'prefillChunk'>): EngineSizes {
  const sequencesMax = Math.max(smallestSizes.sequencesMax, sequences);
  const mixed = sequencesMax + Math.min(sequencesMax, prefillChunk);
  const stepTokensMax = Math.max(smallestSizes.stepTokensMax, prefillChunk, mixed);
  return { stepTokensMax, sequencesMax };
}

/** What both take: a re-plan takes no slot away from a request that runs. */
export function largerSizes(left: EngineSizes, right: EngineSizes): EngineSizes {
  return {
    stepTokensMax: Math.max(left.stepTokensMax, right.stepTokensMax),
    sequencesMax: Math.max(left.sequencesMax, right.sequencesMax),
  };
}
