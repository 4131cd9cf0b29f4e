/** What becomes of the deployment, as events for people. Changes of the plan are told by the replan log. */
import { type Group, type GroupEvent, isServing } from '../cluster/group.ts';
import type { ClusterEvents } from './cluster-events.ts';
import { modelIdOf } from './served-files.ts';

function nameOf({ request }: Group): string {
  return request === null ? 'none' : modelIdOf(request);
}

/** After a deployment that failed. */
function whatFollows(after: Group): string {
  switch (after.phase) {
    case 'deploying':
      return `going on with ${nameOf(after)}`;
    case 'waiting':
      return 'it is tried again by itself';
    default:
      return 'no model is served';
  }
}

/** Kind and message of what the event has changed; null: nothing that people are told of. */
function groupEventOf(before: Group, event: GroupEvent, after: Group): [string, string] | null {
  if (after === before) return null;
  switch (event.type) {
    case 'serving': {
      if (before.phase !== 'deploying') return null;
      const workers = [...after.members.keys()].join(', ');
      return ['deployed', `model ${nameOf(after)} is served in epoch ${after.epoch} by ${workers}`];
    }
    case 'undeploy':
      return ['undeployed', `model ${nameOf(before)} is no longer deployed`];
    case 'deploy-failed':
    case 'worker-lost':
    case 'epoch-failed': {
      // Not one that waited, nor a plan on its way that is gone back on.
      const isUnderWay = before.phase === 'deploying' || isServing(before);
      const stays = after.epoch === before.epoch && after.phase === before.phase;
      if (!isUnderWay || stays || isServing(after)) return null;
      const what = `epoch ${before.epoch} of model ${nameOf(before)}`;
      const why = `${after.detail}; ${whatFollows(after)}`;
      return isServing(before)
        ? ['epoch-failed', `${what} ended: ${why}`]
        : ['deploy-failed', `${what} did not come to serve: ${why}`];
    }
    default:
      return null;
  }
}

export function tellGroupEvent(
  events: Pick<ClusterEvents, 'record'>,
  before: Group,
  event: GroupEvent,
  after: Group,
): void {
  const told = groupEventOf(before, event, after);
  if (told !== null) events.record(told[0], '', told[1]);
}
