/** What people are told of: workers through the real registry, deployments through the real machine of the group. */
import { expect, it } from 'vitest';
import {
  applyGroupEvent,
  type GroupEvent,
  initialGroup,
} from '../../../controller/cluster/group.ts';
import { ClusterEvents } from '../../../controller/deployment/cluster-events.ts';
import { tellGroupEvent } from '../../../controller/deployment/group-events.ts';
import { watchMembers } from '../../../controller/deployment/member-events.ts';
import { WorkerRegistry } from '../../../controller/deployment/worker-registry.ts';
import { madeUpDevice } from '../cluster/made-up-device.ts';
import {
  chosen,
  deploy,
  deployFailed,
  joined,
  lost,
  requestFor,
  serving,
  threeReady,
} from '../cluster/trace.ts';

function cluster() {
  const clock = { now: 0, nowMs: () => clock.now, unixMs: () => 1000 + clock.now };
  const warnings: string[] = [];
  const log = { info: () => undefined, warn: (kind: string) => warnings.push(kind) } as never;
  const events = new ClusterEvents(clock, log);
  const count = { lost: 0 };
  const workersLost = { inc: () => (count.lost += 1) };
  const watch = watchMembers({ events, workersLost, version: '2.0.0' });
  const registry = new WorkerRegistry(1, clock, log, watch);
  const register = (workerId: string, incarnation: string, version = '2.0.0') =>
    registry.register({ workerId, incarnation, version, address: 'h:1', device: madeUpDevice });
  const heartbeat = (workerId: string, incarnation: string) =>
    registry.heartbeat({
      workerId,
      incarnation,
      progress: 0,
      memoryFreeBytes: 0,
      term: 1,
    } as never);
  const at = (ms: number) => {
    while (clock.now < ms) {
      clock.now = Math.min(ms, clock.now + 250);
      registry.tick();
    }
  };
  const told = () => events.list().map(({ kind, workerId }) => `${kind} ${workerId}`);
  return { registry, events, warnings, count, register, heartbeat, at, told };
}

it('tells of workers that come, are late, are back and are lost, and counts the lost', () => {
  const { registry, events, warnings, count, register, heartbeat, at, told } = cluster();
  register('a', '1');
  at(2_000);
  heartbeat('a', '1');
  at(3_000);
  at(7_001);
  expect(told()).toEqual([
    'worker-joined a',
    'worker-suspect a',
    'worker-returned a',
    'worker-suspect a',
    'worker-lost a',
  ]);
  expect(events.list().at(-1)).toMatchObject({
    unixMs: 8_001,
    message: "worker 'a' was lost: it was silent for 5001 ms",
  });
  register('a', '2');
  register('a', '3');
  expect(told().slice(5)).toEqual(['worker-joined a', 'worker-lost a', 'worker-joined a']);
  registry.deregister('a', '3', 'SIGTERM');
  expect(told().at(-1)).toBe('worker-left a');
  expect(count.lost).toBe(2);
  expect(warnings).toEqual([]);
});

it('tells of a worker of another version, naming both, in the log too', () => {
  const { events, warnings, register } = cluster();
  register('a', '1');
  register('b', '1', '1.9.0');
  register('b', '1', '1.9.0');
  expect(warnings).toEqual(['version-differs']);
  const message =
    "worker 'b' runs version 1.9.0, this controller 2.0.0: upgrade all hosts together";
  expect(events.list().at(-1)).toMatchObject({ kind: 'version-differs', workerId: 'b', message });
});

it('does not tell of a worker that is no longer drained as of one that comes', () => {
  const { registry, register, told } = cluster();
  register('a', '1');
  registry.setDrained('a', true);
  registry.setDrained('a', false);
  expect(told()).toEqual(['worker-joined a']);
});

it('keeps the newest 200', () => {
  const { events } = cluster();
  for (let index = 0; index < 205; index += 1) events.record('kind', '', `${index}`);
  expect(events.list()).toHaveLength(200);
  expect(events.list()[0]?.message).toBe('5');
  expect(events.list().at(-1)?.message).toBe('204');
});

function told(events: readonly GroupEvent[]): string[] {
  const lines: string[] = [];
  let group = initialGroup(0);
  for (const event of events) {
    const next = applyGroupEvent(group, event).group;
    const record = (kind: string, _: string, message: string) => {
      lines.push(`${kind}: ${message}`);
    };
    tellGroupEvent({ record }, group, event, next);
    group = next;
  }
  return lines;
}

const deployed = 'deployed: model llama is served in epoch 1 by a, b, c';

it('tells of deployments that serve, fail and end', () => {
  expect(told([...threeReady, { type: 'undeploy' }])).toEqual([
    deployed,
    'undeployed: model llama is no longer deployed',
  ]);
  expect(told([deploy('llama'), deployFailed(1, 'no room')])).toEqual([
    'deploy-failed: epoch 1 of model llama did not come to serve: no room; no model is served',
  ]);
  expect(told([deploy('llama', false), deployFailed(1, 'no room')])).toEqual([
    'deploy-failed: epoch 1 of model llama did not come to serve: no room; it is tried again by itself',
  ]);
  expect(told([...threeReady, deploy('qwen'), deployFailed(2, 'no room')])).toEqual([
    deployed,
    'deploy-failed: epoch 2 of model qwen did not come to serve: no room; going on with llama',
  ]);
});

it('tells of an epoch that a loss ends, not of a loss or a newcomer that changes nothing', () => {
  expect(told([...threeReady, lost('z', 'z1'), joined, lost('b', 'b1')])).toEqual([
    deployed,
    "epoch-failed: epoch 1 of model llama ended: worker 'b' was lost: silent; going on with llama",
  ]);
  const waiting = [deploy('llama', false), deployFailed(1, 'no room')];
  expect(told([...waiting, joined, lost('z', 'z1')])).toHaveLength(1);
});

it('leaves changes of the plan to the log of re-plans', () => {
  const change: GroupEvent[] = [
    {
      type: 'replan-begun',
      epoch: 1,
      request: requestFor('llama'),
      members: new Map(Object.entries({ a: 'a1', d: 'd1' })),
      reason: 'load',
    },
    serving(2),
  ];
  expect(told([...threeReady, ...change])).toEqual([deployed]);
  // One that only the new plan has: the former plan again.
  expect(told([...threeReady, ...change.slice(0, 1), lost('d', 'd1')])).toEqual([deployed]);
  expect(told([deploy('llama'), chosen(1, { a: 'a1' }), lost('a', 'a1')])).toHaveLength(1);
});
