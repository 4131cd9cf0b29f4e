import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HelsError } from '../../../proto/domain/errors.ts';
import { compareFences } from '../../../worker/daemon/fence.ts';
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
) => ({ type, fence: fence(epoch) }) as ShardEvent;
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
    const state = run([{ type: 'prepare-requested', fence: fence(1, 2) }]);
    refused(state, { type: 'prepare-requested', fence: fence(99, 1) }, 'stale-fence');
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
    'prepare-requested' as const,
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
          expect(state.stepsInFlight).toBeLessThanOrEqual(state.lastStep);
          if (before.draining) expect(state.draining).toBe(true);
        }
      }),
      { numRuns: 500 },
    );
  });
});
