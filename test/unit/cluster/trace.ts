/** A script of events through the group's machine, as the text that a reader follows: event, effects, state. */
import {
  applyGroupEvent,
  type DeploymentRequest,
  type Group,
  type GroupEffect,
  type GroupEvent,
  initialGroup,
} from '../../../controller/cluster/group.ts';

export function requestFor(modelId: string): DeploymentRequest {
  return {
    modelPath: `/models/${modelId}`,
    modelId,
    policy: 'hels',
    numerics: 'exact',
    quantization: 'auto',
    workersMin: 1,
    workload: null,
    ranks: [],
  };
}

function showEvent(event: GroupEvent): string {
  switch (event.type) {
    case 'deploy':
      return `deploy ${event.request.modelId}${event.attended ? ', attended' : ''}`;
    case 'members-chosen':
      return `members-chosen(${event.epoch}) ${[...event.members].map((member) => member.join('@')).join(' ')}`;
    case 'request-changed':
      return `request-changed(${event.epoch}) ${event.request.policy}`;
    case 'serving':
      return `serving(${event.epoch})`;
    case 'deploy-failed':
    case 'replan':
    case 'replan-failed':
    case 'epoch-failed':
      return `${event.type}(${event.epoch}) ${event.reason}`;
    case 'replan-begun':
      return `replan-begun(${event.epoch}) ${[...event.members].map((member) => member.join('@')).join(' ')}`;
    case 'worker-lost':
      return `worker-lost ${event.id}@${event.incarnation}`;
    default:
      return event.type;
  }
}

function showEffect(effect: GroupEffect): string {
  switch (effect.type) {
    case 'end-epoch':
      return `end-epoch(${effect.epoch}) ${effect.reason}`;
    case 'start-deployment':
      return `start-deployment(${effect.epoch}) ${effect.request.modelId}`;
    case 'start-replan':
      return `start-replan(${effect.epoch})${effect.back ? ' back' : ''}`;
    case 'persist-deployment':
      return `persist-deployment ${effect.request?.modelId ?? 'nothing'}`;
  }
}

export interface Trace {
  group: Group;
  text: string;
}

export function trace(events: readonly GroupEvent[], lastEpoch = 0): Trace {
  let group = initialGroup(lastEpoch);
  const lines: string[] = [];
  for (const event of events) {
    const step = applyGroupEvent(group, event);
    group = step.group;
    lines.push(
      `> ${showEvent(event)}`,
      ...step.effects.map((effect) => `    ${showEffect(effect)}`),
    );
    lines.push(`  ${group.phase}(${group.epoch})`);
  }
  return { group, text: lines.join('\n') };
}

export const deploy = (modelId: string, attended = true): GroupEvent => ({
  type: 'deploy',
  request: requestFor(modelId),
  attended,
});
export const chosen = (epoch: number, members: Record<string, string>): GroupEvent => ({
  type: 'members-chosen',
  epoch,
  members: new Map(Object.entries(members)),
});
export const serving = (epoch: number): GroupEvent => ({ type: 'serving', epoch });
export const lost = (id: string, incarnation: string): GroupEvent => ({
  type: 'worker-lost',
  id,
  incarnation,
  reason: 'silent',
});
export const deployFailed = (epoch: number, reason: string): GroupEvent => ({
  type: 'deploy-failed',
  epoch,
  reason,
});
export const joined: GroupEvent = { type: 'worker-joined' };

export const threeReady = [
  deploy('llama'),
  chosen(1, { a: 'a1', b: 'b1', c: 'c1' }),
  serving(1),
] satisfies GroupEvent[];
