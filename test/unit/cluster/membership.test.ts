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
  refusalOf,
} from '../../../controller/cluster/membership.ts';
import { madeUpDevice } from './made-up-device.ts';

const limits: MembershipLimits = { suspectMs: 1_500, leaseMs: 5_000, stuckMs: 10_000 };

function register(nowMs: number, id: string, incarnation: string, address = `${id}:7000`) {
  const worker = { id, incarnation, address, version: '1', device: madeUpDevice };
  return { type: 'register' as const, nowMs, worker };
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

describe('two workers of one name', () => {
  /** Each registers again whenever it is told that it is not known, as the daemon does. */
  function fight(addresses: string[], untilMs: number) {
    let membership = emptyMembership;
    const effects: MembershipEffect[] = [];
    const refused = new Set<string>();
    for (let nowMs = 0; nowMs < untilMs; nowMs += 250) {
      const index = (nowMs / 250) % addresses.length;
      const life = `a${index}`;
      const event = isCurrent(membership, 'a', life)
        ? heartbeat(nowMs, life, 0)
        : register(nowMs, 'a', life, addresses[index]);
      if (event.type === 'register' && refusalOf(membership, event, limits)) refused.add(life);
      const step = applyMembershipEvent(membership, event, limits);
      membership = step.membership;
      effects.push(...step.effects);
    }
    return { members: [...membership.members.values()], effects, refused: [...refused] };
  }

  it('on two hosts: the first stays, undisturbed', () => {
    const { members, effects, refused } = fight(['host-a:1', 'host-b:1'], 60_000);
    expect(members).toMatchObject([{ incarnation: 'a0', address: 'host-a:1' }]);
    expect(effects).toEqual([{ type: 'worker-joined', id: 'a', incarnation: 'a0' }]);
    expect(refused).toEqual(['a1']);
  });

  it('on one host: the newer one stays, for it may be the first one, started again', () => {
    const { members, effects, refused } = fight(['host-a:1', 'host-a:2'], 60_000);
    expect(members).toMatchObject([{ incarnation: 'a1', address: 'host-a:2' }]);
    expect(effects.map(({ type }) => type)).toEqual([
      'worker-joined',
      'worker-lost',
      'worker-joined',
    ]);
    expect(refused).toEqual(['a0']);
  });

  it('on one host, three of them: the newest stays', () => {
    const { members, effects, refused } = fight(['host-a:1', 'host-a:2', 'host-a:3'], 60_000);
    expect(members).toMatchObject([{ incarnation: 'a2' }]);
    expect(effects.filter(({ type }) => type === 'worker-joined')).toHaveLength(3);
    expect(refused).toEqual(['a0', 'a1']);
  });

  const held = run([register(0, 'a', 'a1', 'host-a:1'), heartbeat(1_000, 'a1', 0)]).membership;
  const refusal = (nowMs: number, life: string, address: string, membership = held) =>
    refusalOf(membership, register(nowMs, 'a', life, address), limits);

  it('are named in the refusal', () => {
    expect(refusal(1_100, 'a2', '[fd00::2]:1')).toBe(
      "worker 'a' is alive at host-a:1: two workers have this name; give the one at [fd00::2]:1 another --id, or stop one of them",
    );
  });

  it('are one that moved to another host once nothing was heard for the suspect time, before a tick too', () => {
    expect(refusal(2_500, 'a2', 'host-b:1')).not.toBeNull();
    expect(refusal(2_501, 'a2', 'host-b:1')).toBeNull();
    const suspect = run([
      register(0, 'a', 'a1', 'host-a:1'),
      { type: 'unreachable', id: 'a', incarnation: 'a1' },
    ]);
    expect(refusal(10, 'a2', 'host-b:1', suspect.membership)).toBeNull();
  });

  it('are one that started again on its host, or whose own address changed', () => {
    expect(refusal(1_001, 'a2', 'host-a:2')).toBeNull();
    expect(refusal(1_001, 'a1', 'host-b:1')).toBeNull();
    const { members } = run([
      register(0, 'a', 'a1', 'host-a:1'),
      register(10, 'a', 'a1', 'host-b:1'),
    ]).membership;
    expect(members.get('a')?.address).toBe('host-b:1');
  });

  it('are no worry of a controller that takes over: whoever comes first stays', () => {
    expect(refusal(0, 'a2', 'host-b:1', emptyMembership)).toBeNull();
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
