/** Entry of the thread that solves plans. */
import { serveJobs } from '../../proto/base/job-thread.ts';
import { makePlan, type PlanRequest } from './make-plan.ts';

serveJobs((request: PlanRequest) => makePlan(request, () => performance.now()));
