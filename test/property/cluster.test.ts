import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  applyGroupEvent,
  type Group,
  type GroupEvent,
  type GroupStep,
  initialGroup,
} from '../../controller/cluster/group.ts';
import {
  applyMembershipEvent,
  emptyMembership,
  type Membership,
  type MembershipEffect,
  type MembershipEvent,
} from '../../controller/cluster/membership.ts';
import { propertyRuns } from '../support/property-runs.ts';
import { requestFor } from '../unit/cluster/trace.ts';

const ids = ['a', 'b', 'c'];
const id = fc.constantFrom(...ids);
const incarnation = fc.constantFrom('1', '2', '3');
const epoch = fc.integer({ min: 1, max: 6 });
const reason = fc.constant('a reason');

const members = fc
  .dictionary(id, incarnation, { minKeys: 0, maxKeys: 3, noNullPrototype: true })
  .map((entries) => new Map(Object.entries(entries)));

const groupEvent: fc.Arbitrary<GroupEvent> = fc.oneof(
  fc.record({
    type: fc.constant('deploy' as const),
    request: fc.constantFrom(requestFor('llama'), requestFor('qwen')),
    attended: fc.boolean(),
  }),
  {
    weight: 3,
    arbitrary: fc.record({ type: fc.constant('members-chosen' as const), epoch, members }),
  },
  { weight: 3, arbitrary: fc.record({ type: fc.constant('serving' as const), epoch }) },
  fc.record({ type: fc.constant('deploy-failed' as const), epoch, reason }),
  fc.record({ type: fc.constant('replan' as const), epoch, reason }),
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant('replan-begun' as const),
      epoch,
      request: fc.constantFrom(requestFor('llama'), requestFor('llama again')),
      members,
      reason,
    }),
  },
  fc.record({
    type: fc.constant('request-changed' as const),
    epoch,
    request: fc.constant(requestFor('llama as wished')),
  }),
  fc.record({ type: fc.constant('replan-failed' as const), epoch, reason }),
  fc.record({ type: fc.constant('epoch-failed' as const), epoch, reason }),
  fc.record({ type: fc.constant('worker-lost' as const), id, incarnation, reason }),
  fc.record({ type: fc.constant('worker-joined' as const) }),
  fc.record({ type: fc.constant('retry-due' as const) }),
  fc.record({ type: fc.constant('undeploy' as const) }),
);

interface GroupRecord extends GroupStep {
  before: Group;
  event: GroupEvent;
}

function runGroup(events: readonly GroupEvent[]): GroupRecord[] {
  let group = initialGroup(0);
  return events.map((event) => {
    const before = group;
    const step = applyGroupEvent(group, event);
    group = step.group;
    return { ...step, before, event };
  });
}

function forGroupRuns(check: (records: GroupRecord[]) => void): void {
  fc.assert(
    fc.property(fc.array(groupEvent, { maxLength: 40 }), (events) => check(runGroup(events))),
    { numRuns: propertyRuns(500) },
  );
}

const running = (group: Group) => ['deploying', 'ready', 'replanning'].includes(group.phase);

describe('the group', () => {
  it('starts each epoch once, in increasing order', () => {
    forGroupRuns((records) => {
      const started = records.flatMap(({ effects }) =>
        effects.flatMap((effect) =>
          effect.type === 'start-deployment' || effect.type === 'start-replan'
            ? [effect.epoch]
            : [],
        ),
      );
      expect(started).toEqual(started.map((_, index) => index + 1));
    });
  });

  it('ends every epoch exactly once: when it stops running, unless another takes its requests over', () => {
    forGroupRuns((records) => {
      for (const { before, group, effects } of records) {
        const ended = effects.flatMap((effect) =>
          effect.type === 'end-epoch' ? [effect.epoch] : [],
        );
        const stopped = running(before) && !(running(group) && group.epoch === before.epoch);
        const goesOn = effects.some(({ type }) => type === 'start-replan');
        if (goesOn) expect(group.phase).toBe('replanning');
        expect(ended).toEqual(stopped && !goesOn ? [before.epoch] : []);
      }
    });
  });

  it('ends an epoch before it starts the next', () => {
    forGroupRuns((records) => {
      for (const { effects } of records) {
        const order = effects
          .map(({ type }) => type)
          .filter((type) => type !== 'persist-deployment');
        expect(order.indexOf('end-epoch')).toBeLessThanOrEqual(0);
      }
    });
  });

  it('is ready only by the word of the current epoch, with members', () => {
    forGroupRuns((records) => {
      for (const { before, event, group } of records) {
        if (group.phase !== 'ready' || before.phase === 'ready') continue;
        expect(event).toEqual({ type: 'serving', epoch: group.epoch });
        expect(['deploying', 'replanning']).toContain(before.phase);
        expect(group.members.size).toBeGreaterThan(0);
      }
    });
  });

  it('goes back at most once, and only to a plan all of whose workers are there', () => {
    forGroupRuns((records) => {
      let former: ReadonlyMap<string, string> | null = null;
      for (const { before, event, group, effects } of records) {
        const [start] = effects.filter((effect) => effect.type === 'start-replan');
        if (start?.back === false) former = before.members;
        if (event.type === 'worker-lost' && former?.get(event.id) === event.incarnation) {
          former = null;
        }
        if (start?.back !== true) continue;
        expect(group.members).toEqual(former);
        former = null;
      }
    });
  });

  it('holds a re-plan exactly while it re-plans', () => {
    forGroupRuns((records) => {
      for (const { group } of records) {
        expect(group.replan !== null).toBe(group.phase === 'replanning');
      }
    });
  });

  it('does not react to events of another epoch', () => {
    forGroupRuns((records) => {
      for (const { before, event, group, effects } of records) {
        if (!('epoch' in event) || event.epoch === before.epoch) continue;
        expect(group).toBe(before);
        expect(effects).toEqual([]);
      }
    });
  });

  it('goes on undisturbed when a worker is lost that takes no part', () => {
    forGroupRuns((records) => {
      for (const { before, event, group, effects } of records) {
        if (event.type !== 'worker-lost' || !running(before)) continue;
        if (before.members.get(event.id) === event.incarnation) continue;
        expect([group.phase, group.epoch, effects]).toEqual([before.phase, before.epoch, []]);
      }
    });
  });

  it('never goes on with a lost worker', () => {
    forGroupRuns((records) => {
      for (const { before, event, group } of records) {
        if (event.type !== 'worker-lost') continue;
        const member = running(before) && before.members.get(event.id) === event.incarnation;
        if (member) expect(running(group) && group.epoch === before.epoch).toBe(false);
      }
    });
  });

  it('remembers only what serves, and forgets only what is undeployed', () => {
    forGroupRuns((records) => {
      for (const { event, effects, group } of records) {
        const stored = effects.filter((effect) => effect.type === 'persist-deployment');
        for (const { request } of stored) {
          expect([event.type === 'undeploy', group.phase]).toEqual([
            request === null,
            request === null ? 'empty' : 'ready',
          ]);
        }
      }
    });
  });

  it('remembers whatever somebody asked for that serves', () => {
    forGroupRuns((records) => {
      const unattended = new Set<unknown>();
      let stored: unknown = null;
      for (const { event, effects, group } of records) {
        if (event.type === 'deploy' && !event.attended) unattended.add(event.request);
        const persisted = effects.find((effect) => effect.type === 'persist-deployment');
        if (persisted !== undefined) stored = persisted.request;
        const asked = group.phase === 'ready' && !unattended.has(group.request);
        if (asked) expect(stored).toEqual(group.request);
      }
    });
  });
});

const limits = { suspectMs: 15, leaseMs: 50, stuckMs: 100 };

/** Events with the milliseconds since the one before. */
const membershipEvent: fc.Arbitrary<{
  afterMs: number;
  event: (nowMs: number) => MembershipEvent;
}> = fc
  .tuple(fc.nat(40), id, incarnation, fc.nat(5), fc.boolean(), fc.nat(4), fc.nat(40))
  .map(([afterMs, workerId, life, progress, stepsOutstanding, kind, awayMs]) => ({
    afterMs,
    event: (nowMs: number): MembershipEvent => {
      if (kind === 0) {
        const device = {
          kind: 'cpu',
          name: 'test',
          threads: 1,
          speed: 1,
          emulated: false,
          memoryBytes: 1,
          hostMemoryBytes: 0,
          memoryFreeBytes: 1,
          implementation: 'made up',
        };
        const worker = { id: workerId, incarnation: life, address: '', version: '', device };
        return { type: 'register', nowMs, worker };
      }
      if (kind === 1) {
        return {
          type: 'heartbeat',
          nowMs,
          id: workerId,
          incarnation: life,
          progress,
          memoryFreeBytes: 1,
          stepsOutstanding,
        };
      }
      if (kind === 2) return { type: 'tick', nowMs, awayMs: Math.min(awayMs, afterMs) };
      if (kind === 3) return { type: 'unreachable', id: workerId, incarnation: life };
      return { type: 'deregister', id: workerId, incarnation: life, reason: 'drain' };
    },
  }));

interface MembershipRecord {
  nowMs: number;
  membership: Membership;
  /** As it was when the machine returned it. */
  copy: Membership;
  effects: MembershipEffect[];
}

function forMembershipRuns(check: (records: MembershipRecord[]) => void): void {
  fc.assert(
    fc.property(fc.array(membershipEvent, { maxLength: 60 }), (events) => {
      let membership = emptyMembership;
      let nowMs = 0;
      const records = events.map(({ afterMs, event }) => {
        nowMs += afterMs;
        const step = applyMembershipEvent(membership, event(nowMs), limits);
        membership = step.membership;
        return { nowMs, copy: structuredClone(membership), ...step };
      });
      check(records);
    }),
    { numRuns: propertyRuns(300) },
  );
}

describe('the membership', () => {
  it('is what its effects say: every life joins once and is lost at most once, one at a time', () => {
    forMembershipRuns((records) => {
      const current = new Map<string, string>();
      for (const { membership, effects } of records) {
        for (const effect of effects) {
          if (effect.type === 'worker-joined') {
            expect(current.has(effect.id)).toBe(false);
            current.set(effect.id, effect.incarnation);
          } else if (effect.type === 'worker-lost') {
            expect(current.get(effect.id)).toBe(effect.incarnation);
            current.delete(effect.id);
          }
        }
        const members = [...membership.members.values()].map((member) => [
          member.id,
          member.incarnation,
        ]);
        expect(new Map(members as [string, string][])).toEqual(current);
      }
    });
  });

  it('holds nobody after a tick who was silent for longer than the lease', () => {
    forMembershipRuns((records) => {
      for (const { nowMs, membership } of records) {
        const ticked = applyMembershipEvent(membership, { type: 'tick', nowMs, awayMs: 0 }, limits);
        for (const member of ticked.membership.members.values()) {
          expect(nowMs - member.lastHeartbeatMs).toBeLessThanOrEqual(limits.leaseMs);
        }
      }
    });
  });

  it('loses and suspects nobody more when this process stood still, however long', () => {
    forMembershipRuns((records) => {
      for (const { nowMs, membership } of records) {
        const at = (awayMs: number) => {
          const tick = { type: 'tick', nowMs: nowMs + awayMs, awayMs } as const;
          return applyMembershipEvent(membership, tick, limits).effects;
        };
        for (const awayMs of [1, 60, 1_000]) expect(at(awayMs)).toEqual(at(0));
      }
    });
  });

  it('never changes a state that it was given', () => {
    forMembershipRuns((records) => {
      for (const { membership, copy } of records) expect(membership).toEqual(copy);
    });
  });
});
