import { describe, expect, it } from 'vitest';
import {
  applyMembershipEvent,
  availableMembers,
  emptyMembership,
  isCurrent,
  type Membership,
  type MembershipEffect,
  type MembershipEvent,
  type MembershipLimits,
} from '../../../controller/cluster/membership.ts';
import { madeUpDevice } from './made-up-device.ts';

const limits: MembershipLimits = { suspectMs: 1_500, leaseMs: 5_000, stuckMs: 10_000 };

function register(nowMs: number, id: string, incarnation: string): MembershipEvent {
  const worker = { id, incarnation, address: `${id}:7000`, version: '1', device: madeUpDevice };
  return { type: 'register', nowMs, worker };
}

function heartbeat(
  nowMs: number,
  incarnation: string,
  progress: number,
  stepsOutstanding = false,
): MembershipEvent {
  return {
    type: 'heartbeat',
    nowMs,
    id: 'a',
    incarnation,
    progress,
    memoryFreeBytes: 2 ** 20,
    stepsOutstanding,
  };
}

const tick = (nowMs: number, awayMs = 0): MembershipEvent => ({ type: 'tick', nowMs, awayMs });

function run(events: MembershipEvent[]): { membership: Membership; effects: MembershipEffect[] } {
  let membership = emptyMembership;
  const effects: MembershipEffect[] = [];
  for (const event of events) {
    const step = applyMembershipEvent(membership, event, limits);
    membership = step.membership;
    effects.push(...step.effects);
  }
  return { membership, effects };
}

describe('registration', () => {
  it('announces a new worker once, however often it registers', () => {
    const { effects } = run([register(0, 'a', 'a1'), register(10, 'a', 'a1')]);
    expect(effects).toEqual([{ type: 'worker-joined', id: 'a', incarnation: 'a1' }]);
  });

  it('keeps the progress of a life that registers again', () => {
    const { membership } = run([
      register(0, 'a', 'a1'),
      heartbeat(10, 'a1', 7),
      register(20, 'a', 'a1'),
    ]);
    expect(membership.members.get('a')?.progress).toBe(7);
  });

  it('ends the old life before the new one begins', () => {
    const { membership, effects } = run([register(0, 'a', 'a1'), register(10, 'a', 'a2')]);
    expect(effects.slice(1)).toEqual([
      { type: 'worker-lost', id: 'a', incarnation: 'a1', reason: 'it started again' },
      { type: 'worker-joined', id: 'a', incarnation: 'a2' },
    ]);
    expect(isCurrent(membership, 'a', 'a1')).toBe(false);
    expect(isCurrent(membership, 'a', 'a2')).toBe(true);
  });

  it('takes a goodbye only from the life that is registered', () => {
    const goodbye = (incarnation: string): MembershipEvent => ({
      type: 'deregister',
      id: 'a',
      incarnation,
      reason: 'drain',
    });
    const old = run([register(0, 'a', 'a2'), goodbye('a1')]);
    expect(old.membership.members.has('a')).toBe(true);
    const current = run([register(0, 'a', 'a2'), goodbye('a2')]);
    expect(current.membership.members.size).toBe(0);
    expect(current.effects.at(-1)).toEqual({
      type: 'worker-lost',
      id: 'a',
      incarnation: 'a2',
      reason: 'drain',
    });
  });
});

describe('silence', () => {
  it('makes a worker suspect, then lost; each said once', () => {
    const { membership, effects } = run([
      register(0, 'a', 'a1'),
      tick(1_500),
      tick(1_501),
      tick(3_000),
      tick(5_000),
      tick(5_001),
      tick(9_000),
    ]);
    expect(effects.slice(1)).toEqual([
      { type: 'worker-suspect', id: 'a', reason: 'its heartbeat is late' },
      { type: 'worker-lost', id: 'a', incarnation: 'a1', reason: 'it was silent for 5001 ms' },
    ]);
    expect(membership.members.size).toBe(0);
  });

  it('ends with a heartbeat', () => {
    const { membership } = run([register(0, 'a', 'a1'), tick(2_000), heartbeat(2_001, 'a1', 0)]);
    expect(membership.members.get('a')?.state).toBe('alive');
  });

  it('does not end with the heartbeat of another life', () => {
    const { membership } = run([register(0, 'a', 'a2'), heartbeat(4_000, 'a1', 0), tick(5_001)]);
    expect(membership.members.size).toBe(0);
  });
});

describe('a process that stood still', () => {
  it('blames no worker for what it did not hear meanwhile', () => {
    const { membership, effects } = run([
      register(0, 'a', 'a1'),
      heartbeat(500, 'a1', 3),
      tick(600),
      tick(8_600, 7_500),
      heartbeat(8_610, 'a1', 3),
    ]);
    expect(effects.slice(1)).toEqual([]);
    expect(membership.members.get('a')).toMatchObject({ state: 'alive', lastHeartbeatMs: 8_610 });
  });

  it('still misses one that says nothing afterwards', () => {
    const { effects } = run([
      register(0, 'a', 'a1'),
      tick(500),
      tick(8_500, 7_500),
      tick(12_500),
      tick(12_501),
    ]);
    expect(effects.slice(1)).toEqual([
      { type: 'worker-suspect', id: 'a', reason: 'its heartbeat is late' },
      { type: 'worker-lost', id: 'a', incarnation: 'a1', reason: 'it was silent for 5001 ms' },
    ]);
  });

  it('has heard of nobody later than now', () => {
    const { membership } = run([
      register(0, 'a', 'a1'),
      tick(500),
      heartbeat(8_490, 'a1', 3),
      tick(8_500, 7_500),
    ]);
    const now = { lastHeartbeatMs: 8_500, lastProgressMs: 8_500 };
    expect(membership.members.get('a')).toMatchObject(now);
  });

  it('suspects nobody of having finished no steps meanwhile', () => {
    const { effects } = run([
      register(0, 'a', 'a1'),
      heartbeat(500, 'a1', 3, true),
      tick(600),
      tick(20_600, 19_500),
      heartbeat(20_610, 'a1', 3, true),
    ]);
    expect(effects.slice(1)).toEqual([]);
  });
});

describe('a worker at whose address nothing answers', () => {
  const unreachable = (incarnation: string): MembershipEvent => ({
    type: 'unreachable',
    id: 'a',
    incarnation,
  });

  it('is suspect, said once, and used by no plan until it is heard of', () => {
    const { membership, effects } = run([
      register(0, 'a', 'a1'),
      unreachable('a1'),
      unreachable('a1'),
    ]);
    expect(availableMembers(membership)).toEqual([]);
    expect(effects.slice(1)).toEqual([
      { type: 'worker-suspect', id: 'a', reason: 'nothing answers at its address' },
    ]);
    for (const word of [heartbeat(400, 'a1', 0), register(400, 'a', 'a1')]) {
      const heard = applyMembershipEvent(membership, word, limits);
      expect(availableMembers(heard.membership)).toHaveLength(1);
      expect(heard.effects).toEqual([{ type: 'worker-returned', id: 'a' }]);
    }
  });

  it('is another one when it has started again since', () => {
    const { membership } = run([register(0, 'a', 'a1'), register(9, 'a', 'a2'), unreachable('a1')]);
    expect(availableMembers(membership)).toHaveLength(1);
  });
});

describe('alive means progressing', () => {
  it('suspects a worker that beats but finishes no step of those it was sent', () => {
    const { membership, effects } = run([
      register(0, 'a', 'a1'),
      heartbeat(1_000, 'a1', 3, true),
      heartbeat(11_000, 'a1', 3, true),
      heartbeat(11_001, 'a1', 3, true),
      heartbeat(12_000, 'a1', 3, true),
    ]);
    expect(effects.slice(1)).toEqual([
      { type: 'worker-suspect', id: 'a', reason: 'it finishes no steps' },
    ]);
    expect(membership.members.get('a')?.state).toBe('suspect');
  });

  it('trusts it again when a step ends', () => {
    const { membership, effects } = run([
      register(0, 'a', 'a1'),
      heartbeat(11_000, 'a1', 0, true),
      heartbeat(11_500, 'a1', 1, true),
    ]);
    expect(effects.at(-1)).toEqual({ type: 'worker-returned', id: 'a' });
    expect(membership.members.get('a')?.state).toBe('alive');
  });

  it('does not count the time in which there was nothing to do', () => {
    const { membership } = run([
      register(0, 'a', 'a1'),
      heartbeat(30_000, 'a1', 3, false),
      heartbeat(31_000, 'a1', 3, true),
    ]);
    expect(membership.members.get('a')?.state).toBe('alive');
  });

  it('takes over what the device has free', () => {
    const { membership } = run([register(0, 'a', 'a1'), heartbeat(1, 'a1', 0)]);
    expect(membership.members.get('a')?.device.memoryFreeBytes).toBe(2 ** 20);
  });
});
