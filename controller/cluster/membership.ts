/**
 * Who is in the cluster. Pure: (state, event) -> (state, effects); the caller brings the time and carries out the effects.
 *
 *   register            -> alive           a new incarnation of a known worker ends the old one first, unless it is refused: see refusalOf()
 *   heartbeat           -> alive           suspect when it computes nothing although steps are outstanding
 *   silent > suspectMs  -> suspect
 *   unreachable         -> suspect         until its next heartbeat
 *   silent > leaseMs    -> lost (removed)
 *   deregister          -> gone (removed)
 *
 * A worker that is drained is a member like any other, but no plan may use it. The mark is on its name: it outlasts the worker's lives.
 */

/** What a worker says of its device when it registers. */
interface MemberDevice {
  kind: string;
  name: string;
  threads: number;
  speed: number;
  emulated: boolean;
  memoryBytes: number;
  memoryFreeBytes: number;
  /** Budget for parked KV, beside the memory above. */
  hostMemoryBytes: number;
  /** Instruction set, kernel library, build: what a measurement holds for. */
  implementation: string;
}

export interface Member {
  id: string;
  incarnation: string;
  address: string;
  version: string;
  device: MemberDevice;
  state: 'alive' | 'suspect';
  /** Later by the time in which nobody could be heard since. */
  lastHeartbeatMs: number;
  /** Steps finished in this life. */
  progress: number;
  /** When `progress` last grew, or when there was nothing to do. */
  lastProgressMs: number;
  /** The last lives whose place it and those before it took, the newest last. */
  replaced: readonly string[];
}

export interface Membership {
  readonly members: ReadonlyMap<string, Member>;
  /** Ids of workers that are there or were. */
  readonly drained: ReadonlySet<string>;
}

export interface MembershipLimits {
  suspectMs: number;
  leaseMs: number;
  /** Alive means progressing: steps outstanding for longer than this without one finished. */
  stuckMs: number;
}

export type MembershipEvent =
  | {
      type: 'register';
      nowMs: number;
      worker: Pick<Member, 'id' | 'incarnation' | 'address' | 'version' | 'device'>;
    }
  | {
      type: 'heartbeat';
      nowMs: number;
      id: string;
      incarnation: string;
      progress: number;
      memoryFreeBytes: number;
      /** Steps that this worker has been sent and has not answered. */
      stepsOutstanding: boolean;
    }
  | { type: 'deregister'; id: string; incarnation: string; reason: string }
  /** Nothing answers at its address. */
  | { type: 'unreachable'; id: string; incarnation: string }
  | { type: 'drain'; id: string }
  | { type: 'undrain'; id: string }
  /** `awayMs`: of the time since the last tick, that in which this process stood still and could hear nobody. */
  | { type: 'tick'; nowMs: number; awayMs: number };

export type MembershipEffect =
  | { type: 'worker-joined'; id: string; incarnation: string }
  | { type: 'worker-lost'; id: string; incarnation: string; reason: string }
  | { type: 'worker-suspect'; id: string; reason: string }
  /** It was suspect. */
  | { type: 'worker-returned'; id: string };

export interface MembershipStep {
  membership: Membership;
  effects: MembershipEffect[];
}

export const emptyMembership: Membership = { members: new Map(), drained: new Set() };

/** Whether a heartbeat comes from the life of the worker that is registered; otherwise it must register again. */
export function isCurrent(membership: Membership, id: string, incarnation: string): boolean {
  return membership.members.get(id)?.incarnation === incarnation;
}

/** Those that a plan may use: they answer, and are not drained. */
export function availableMembers({ members, drained }: Membership): Member[] {
  return [...members.values()].filter(({ id, state }) => state === 'alive' && !drained.has(id));
}

/** Lives of one worker that are known to be over. */
const livesMax = 8;

const hostOf = (address: string) => address.slice(0, address.lastIndexOf(':'));

/**
 * Why a worker may not register now, in words; null: it may. Two processes of one name would end each other's life for ever: a live one keeps
 * its name from other hosts, and on its own host, where the newer is the restarted one, from the lives whose place it took.
 */
export function refusalOf(
  membership: Membership,
  { worker, nowMs }: Pick<Extract<MembershipEvent, { type: 'register' }>, 'worker' | 'nowMs'>,
  { suspectMs }: Pick<MembershipLimits, 'suspectMs'>,
): string | null {
  const { id, incarnation, address } = worker;
  const known = membership.members.get(id);
  if (known === undefined || known.incarnation === incarnation) return null;
  if (known.state !== 'alive' || nowMs - known.lastHeartbeatMs > suspectMs) return null;
  const elsewhere = hostOf(known.address) !== hostOf(address);
  if (!elsewhere && !known.replaced.includes(incarnation)) return null;
  return `worker '${id}' is alive at ${known.address}: two workers have this name; give the one at ${address} another --id, or stop one of them`;
}

function without(membership: Membership, id: string): Membership {
  const members = new Map(membership.members);
  members.delete(id);
  return { ...membership, members };
}

function withMember(membership: Membership, member: Member): Membership {
  return { ...membership, members: new Map(membership.members).set(member.id, member) };
}

function suspected(membership: Membership, member: Member, reason: string): MembershipStep {
  if (member.state === 'suspect') return { membership, effects: [] };
  return {
    membership: withMember(membership, { ...member, state: 'suspect' }),
    effects: [{ type: 'worker-suspect', id: member.id, reason }],
  };
}

function lost(member: Member, reason: string): MembershipEffect {
  return { type: 'worker-lost', id: member.id, incarnation: member.incarnation, reason };
}

export function applyMembershipEvent(
  membership: Membership,
  event: MembershipEvent,
  limits: MembershipLimits,
): MembershipStep {
  switch (event.type) {
    case 'register':
      return register(membership, event, limits);
    case 'heartbeat':
      return heartbeat(membership, event, limits);
    case 'deregister': {
      const member = membership.members.get(event.id);
      if (member?.incarnation !== event.incarnation) return { membership, effects: [] };
      return { membership: without(membership, event.id), effects: [lost(member, event.reason)] };
    }
    case 'unreachable': {
      const member = membership.members.get(event.id);
      const { incarnation } = event;
      if (member?.incarnation !== incarnation) return { membership, effects: [] };
      return suspected(membership, member, 'nothing answers at its address');
    }
    case 'drain': {
      const drained = new Set(membership.drained).add(event.id);
      return { membership: { ...membership, drained }, effects: [] };
    }
    case 'undrain':
      return undrain(membership, event.id);
    case 'tick':
      return tick(excused(membership, event), event.nowMs, limits);
  }
}

/** For whoever waits for workers it is as if it had just come. */
function undrain(membership: Membership, id: string): MembershipStep {
  const drained = new Set(membership.drained);
  const marked = drained.delete(id);
  const member = membership.members.get(id);
  const back = marked && member !== undefined;
  return {
    membership: { ...membership, drained },
    effects: back ? [{ type: 'worker-joined', id, incarnation: member.incarnation }] : [],
  };
}

function register(
  membership: Membership,
  event: Extract<MembershipEvent, { type: 'register' }>,
  limits: MembershipLimits,
): MembershipStep {
  if (refusalOf(membership, event, limits) !== null) return { membership, effects: [] };
  const { worker, nowMs } = event;
  const known = membership.members.get(worker.id);
  const member: Member = {
    ...worker,
    state: 'alive',
    lastHeartbeatMs: nowMs,
    progress: 0,
    lastProgressMs: nowMs,
    replaced: known === undefined ? [] : [...known.replaced, known.incarnation].slice(-livesMax),
  };
  // The same life registering again (after the controller forgot to answer) changes nothing for its group.
  if (known?.incarnation === worker.incarnation) {
    const { replaced } = known;
    return {
      membership: withMember(membership, { ...member, progress: known.progress, replaced }),
      effects: known.state === 'suspect' ? [{ type: 'worker-returned', id: known.id }] : [],
    };
  }
  const joined: MembershipEffect = {
    type: 'worker-joined',
    id: worker.id,
    incarnation: worker.incarnation,
  };
  const replaced = known === undefined ? [] : [lost(known, 'it started again')];
  return { membership: withMember(membership, member), effects: [...replaced, joined] };
}

function heartbeat(
  membership: Membership,
  event: Extract<MembershipEvent, { type: 'heartbeat' }>,
  limits: MembershipLimits,
): MembershipStep {
  const member = membership.members.get(event.id);
  if (member?.incarnation !== event.incarnation) return { membership, effects: [] };
  const progressing = event.progress > member.progress || !event.stepsOutstanding;
  const lastProgressMs = progressing ? event.nowMs : member.lastProgressMs;
  const stuck = event.nowMs - lastProgressMs > limits.stuckMs;
  const next: Member = {
    ...member,
    device: { ...member.device, memoryFreeBytes: event.memoryFreeBytes },
    state: stuck ? 'suspect' : 'alive',
    lastHeartbeatMs: event.nowMs,
    progress: Math.max(member.progress, event.progress),
    lastProgressMs,
  };
  const { id } = member;
  const effect: MembershipEffect = stuck
    ? { type: 'worker-suspect', id, reason: 'it finishes no steps' }
    : { type: 'worker-returned', id };
  const effects = next.state === member.state ? [] : [effect];
  return { membership: withMember(membership, next), effects };
}

/** What they said meanwhile lies in the sockets, and is read only after this: the silence was not theirs. */
function excused(
  membership: Membership,
  { nowMs, awayMs }: Extract<MembershipEvent, { type: 'tick' }>,
): Membership {
  if (awayMs === 0) return membership;
  const members = [...membership.members.values()].map((member) => ({
    ...member,
    lastHeartbeatMs: Math.min(nowMs, member.lastHeartbeatMs + awayMs),
    lastProgressMs: Math.min(nowMs, member.lastProgressMs + awayMs),
  }));
  return { ...membership, members: new Map(members.map((member) => [member.id, member])) };
}

function tick(membership: Membership, nowMs: number, limits: MembershipLimits): MembershipStep {
  const effects: MembershipEffect[] = [];
  let next = membership;
  for (const member of membership.members.values()) {
    const silentMs = nowMs - member.lastHeartbeatMs;
    if (silentMs > limits.leaseMs) {
      next = without(next, member.id);
      effects.push(lost(member, `it was silent for ${Math.round(silentMs)} ms`));
    } else if (silentMs > limits.suspectMs) {
      const step = suspected(next, member, 'its heartbeat is late');
      next = step.membership;
      effects.push(...step.effects);
    }
  }
  return { membership: next, effects };
}
