import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HelsError } from '../../../proto/domain/errors.ts';
import { compareFences, type Fence } from '../../../worker/daemon/fence.ts';
import {
  applyShardEvent,
  describeState,
  initialShardState,
  type ShardEvent,
  type ShardState,
  stepsInFlightMax,
} from '../../../worker/daemon/shard-state.ts';

const fence = (epoch: number, term = 1) => ({ term, epoch });
const at = (
  type: Exclude<ShardEvent['type'], 'drain-requested' | 'step-received'>,
  epoch: number,
) =>
  ({
    type,
    fence: fence(epoch),
    ...(type === 'prepare-requested' && { previous: null }),
  }) as ShardEvent;
/** A Prepare that takes over from an epoch. */
const succeed = (epoch: number, previous: number): ShardEvent => ({
  type: 'prepare-requested',
  fence: fence(epoch),
  previous: fence(previous),
});
const step = (number: number, epoch = 1): ShardEvent => ({
  type: 'step-received',
  fence: fence(epoch),
  step: number,
});
const drain: ShardEvent = { type: 'drain-requested' };

const run = (events: readonly ShardEvent[], from = initialShardState) =>
  events.reduce(applyShardEvent, from);

const prepared = run([at('prepare-requested', 1), at('prepare-finished', 1)]);
const connected = run([at('connect-requested', 1), at('connect-finished', 1)], prepared);

const refused = (state: ShardState, event: ShardEvent, code: string) =>
  expect(() => applyShardEvent(state, event)).toThrow(expect.objectContaining({ code }));

describe('the life of a shard', () => {
  it('goes from idle over preparing and prepared to connected, and back by release', () => {
    const preparing = run([at('prepare-requested', 1)]);
    expect(preparing).toMatchObject({ phase: 'preparing', held: fence(1), newest: fence(1) });
    expect(prepared.phase).toBe('prepared');
    expect(connected.phase).toBe('connected');
    const released = run([at('release-requested', 1)], connected);
    expect(released).toEqual({ ...initialShardState, newest: fence(1) });
  });

  it('counts steps in order and their answers', () => {
    const busy = run([step(1), step(2)], connected);
    expect(busy).toMatchObject({ lastStep: 2, stepsInFlight: 2 });
    expect(run([at('step-answered', 1)], busy)).toMatchObject({ lastStep: 2, stepsInFlight: 1 });
  });

  it('starts anew with a newer fence, from anywhere', () => {
    const busy = run([step(1)], connected);
    for (const state of [initialShardState, run([at('prepare-requested', 1)]), prepared, busy]) {
      expect(run([at('prepare-requested', 2)], state)).toEqual({
        ...initialShardState,
        phase: 'preparing',
        newest: fence(2),
        held: fence(2),
      });
    }
  });

  it('remembers the newest fence when the shard is gone', () => {
    const ended = run([at('shard-ended', 1)], connected);
    expect(ended).toMatchObject({ phase: 'idle', held: null, newest: fence(1) });
    refused(ended, at('prepare-requested', 0), 'stale-fence');
    expect(run([at('prepare-requested', 1)], ended).phase).toBe('preparing');
  });

  it('ignores the end and the answers of a shard that was replaced', () => {
    const next = run([at('prepare-requested', 2)], run([step(1)], connected));
    expect(run([at('shard-ended', 1), at('step-answered', 1)], next)).toEqual(next);
  });

  it('takes a release with a newer fence as the newest', () => {
    const released = run([at('release-requested', 5)], connected);
    refused(released, at('prepare-requested', 4), 'stale-fence');
  });

  it('says its phase to the controller, or that it is draining', () => {
    expect(describeState(connected)).toBe('connected');
    expect(describeState(run([drain], connected))).toBe('draining');
  });
});

describe('a Prepare that names the epoch before', () => {
  it('takes over its engine when that epoch is held, and ends it for steps', () => {
    const busy = run([step(1), step(2)], connected);
    for (const state of [prepared, connected, busy]) {
      const next = run([succeed(2, 1)], state);
      expect(next).toEqual({
        ...initialShardState,
        phase: 'preparing',
        newest: fence(2),
        held: fence(2),
        adopting: fence(1),
      });
      refused(next, step(3), 'stale-fence');
      expect(run([at('step-answered', 1)], next)).toEqual(next);
    }
  });

  it('takes over nothing from another epoch, from none, or from one that is still loading', () => {
    const loading = run([at('prepare-requested', 1)]);
    for (const state of [initialShardState, loading, run([at('shard-ended', 1)], connected)]) {
      expect(run([succeed(3, 1)], state)).toMatchObject({ phase: 'preparing', adopting: null });
    }
    expect(run([succeed(3, 2)], connected).adopting).toBeNull();
    const otherTerm: ShardEvent = {
      type: 'prepare-requested',
      fence: fence(2, 5),
      previous: fence(1, 4),
    };
    expect(run([otherTerm], connected).adopting).toBeNull();
    expect(run([{ ...otherTerm, previous: fence(1) }], connected).adopting).toEqual(fence(1));
  });

  it('owes nothing any more when it is loaded, ended or released', () => {
    const next = run([succeed(2, 1)], connected);
    for (const type of ['prepare-finished', 'shard-ended', 'release-requested'] as const) {
      expect(run([at(type, 2)], next).adopting).toBeNull();
    }
    expect(run([succeed(3, 2)], next).adopting).toBeNull();
    expect(run([at('prepare-finished', 2), succeed(3, 2)], next).adopting).toEqual(fence(2));
  });

  it('is refused when that epoch is not older', () => {
    refused(connected, succeed(2, 2), 'request-invalid');
    refused(connected, succeed(2, 3), 'request-invalid');
    refused(run([drain], connected), succeed(2, 1), 'draining');
  });
});

describe('what a shard refuses', () => {
  it.each([
    'prepare-requested',
    'prepare-finished',
    'connect-requested',
    'connect-finished',
    'release-requested',
  ] as const)('an older fence: %s', (type) => {
    refused(run([at('prepare-requested', 3)]), at(type, 2), 'stale-fence');
  });

  it('an older term whatever its epoch', () => {
    const state = run([{ type: 'prepare-requested', fence: fence(1, 2), previous: null }]);
    const older: ShardEvent = { type: 'prepare-requested', fence: fence(99, 1), previous: null };
    refused(state, older, 'stale-fence');
    refused(state, { type: 'step-received', fence: fence(99, 1), step: 1 }, 'stale-fence');
    refused(state, { type: 'profile-requested', fence: fence(99, 1) }, 'stale-fence');
  });

  it('a second Prepare of the fence being prepared', () => {
    refused(run([at('prepare-requested', 1)]), at('prepare-requested', 1), 'overloaded');
  });

  it('what comes before its time', () => {
    refused(initialShardState, step(1), 'not-ready');
    refused(prepared, step(1), 'not-ready');
    refused(initialShardState, at('connect-requested', 1), 'not-ready');
    refused(run([at('prepare-requested', 1)]), at('connect-requested', 1), 'not-ready');
    refused(connected, at('connect-requested', 1), 'not-ready');
    refused(connected, step(1, 2), 'not-ready');
  });

  it('the end of a Prepare that a newer one or a release overtook', () => {
    refused(
      run([at('prepare-requested', 1), at('prepare-requested', 2)]),
      at('prepare-finished', 1),
      'stale-fence',
    );
    refused(
      run([at('prepare-requested', 1), at('release-requested', 1)]),
      at('prepare-finished', 1),
      'not-ready',
    );
  });

  it.each([0, 2, 7])('step %d when the next one is 1', (number) => {
    refused(connected, step(number), 'request-invalid');
  });

  it('a step that was taken already', () => {
    refused(run([step(1)], connected), step(1), 'request-invalid');
  });

  it('more steps than may wait for their answers', () => {
    const full = run(
      Array.from({ length: stepsInFlightMax }, (_, index) => step(index + 1)),
      connected,
    );
    refused(full, step(stepsInFlightMax + 1), 'overloaded');
    const read = run([at('step-answered', 1)], full);
    expect(run([step(stepsInFlightMax + 1)], read).stepsInFlight).toBe(stepsInFlightMax);
  });

  it('profiling while it loads or computes; otherwise profiling changes nothing', () => {
    refused(run([at('prepare-requested', 1)]), at('profile-requested', 2), 'overloaded');
    refused(run([step(1)], connected), at('profile-requested', 2), 'overloaded');
    for (const state of [initialShardState, prepared, connected]) {
      expect(run([at('profile-requested', 2)], state)).toEqual(state);
    }
  });

  it('anything new while draining, but not answers, ends and releases', () => {
    const draining = run([drain], run([step(1)], connected));
    refused(draining, step(2), 'draining');
    refused(draining, at('prepare-requested', 2), 'draining');
    refused(draining, at('profile-requested', 2), 'draining');
    refused(run([drain], prepared), at('connect-requested', 1), 'draining');
    refused(run([at('prepare-requested', 1), drain]), at('prepare-finished', 1), 'draining');
    expect(run([at('step-answered', 1)], draining).stepsInFlight).toBe(0);
    expect(run([at('release-requested', 1)], draining)).toMatchObject({
      held: null,
      draining: true,
    });
  });
});

describe('whatever comes', () => {
  const anyFence = fc.record({ term: fc.integer({ min: 1, max: 3 }), epoch: fc.nat({ max: 4 }) });
  const type = fc.constantFrom(
    'prepare-finished' as const,
    'connect-requested' as const,
    'connect-finished' as const,
    'profile-requested' as const,
    'step-answered' as const,
    'shard-ended' as const,
    'release-requested' as const,
  );
  const event: fc.Arbitrary<ShardEvent> = fc.oneof(
    { weight: 8, arbitrary: fc.record({ type, fence: anyFence }) },
    {
      weight: 2,
      arbitrary: fc.record({
        type: fc.constant('prepare-requested' as const),
        fence: anyFence,
        previous: fc.option(anyFence),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        type: fc.constant('step-received' as const),
        fence: anyFence,
        step: fc.integer({ min: 1, max: 4 }),
      }),
    },
    { weight: 1, arbitrary: fc.constant(drain) },
  );

  it('the newest fence never goes back, the held one is never newer, and a refusal leaves the state', () => {
    fc.assert(
      fc.property(fc.array(event, { maxLength: 60, size: 'max' }), (events) => {
        let state = initialShardState;
        for (const next of events) {
          const before = structuredClone(state);
          try {
            state = applyShardEvent(state, next);
          } catch (error) {
            expect(error).toBeInstanceOf(HelsError);
            expect(state).toEqual(before);
            continue;
          }
          expect(compareFences(state.newest, before.newest)).toBeGreaterThanOrEqual(0);
          expect(state.held === null).toBe(state.phase === 'idle');
          if (state.held !== null) {
            expect(compareFences(state.held, state.newest)).toBeLessThanOrEqual(0);
          }
          // What gives its engine is older, was whole, and is not held any more.
          if (state.adopting !== null) {
            expect(state.phase).toBe('preparing');
            expect(compareFences(state.adopting, state.held as Fence)).toBeLessThan(0);
          }
          expect(state.stepsInFlight).toBeLessThanOrEqual(state.lastStep);
          if (before.draining) expect(state.draining).toBe(true);
        }
      }),
      { numRuns: 500 },
    );
  });
});
