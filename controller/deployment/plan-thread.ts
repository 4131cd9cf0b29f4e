import { JobThread } from '../../proto/base/job-thread.ts';
import type { MadePlan, PlanRequest } from './make-plan.ts';

/** makePlan beside the event loop: with many devices a plan takes tens to hundreds of milliseconds, for which every answer would stand still. */
export type MakePlan = (request: PlanRequest) => Promise<MadePlan>;

export function planThread(): JobThread<PlanRequest, MadePlan> {
  return new JobThread('plan-thread-main', import.meta.url);
}
