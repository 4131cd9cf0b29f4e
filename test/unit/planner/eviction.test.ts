import { describe, expect, it } from 'vitest';
import { explain } from '../../../controller/planner/explain.ts';
import { plan } from '../../../controller/planner/plan.ts';
import type { PlanInput } from '../../../proto/domain/plan.ts';
import { device, smallInput } from './inputs.ts';

/** Half of the model each: 2,032 bytes of weights; a sequence of 64 tokens takes 4,096 bytes of two heads, 2,048 of one. */
const room = (sequences: number) => 2_032 + sequences * 4_096;
const restoreOf = (seconds: number) => ({
  reloadSecondsPerTokenHeadGroup: seconds,
  hiddenSecondsPerToken: 0,
  hiddenSecondsPerTokenHeadGroup: 0,
});

function inputOf(
  seconds: number,
  workload: Partial<PlanInput['workload']> = {},
  rooms: readonly [number, number] = [3, 8],
): PlanInput {
  const line = { constant: 1e-2, perHeadGroup: 1e-3, perFfnColumn: 1e-5 };
  const restore = restoreOf(seconds);
  return smallInput(
    [
      device('left', line, { memoryBytes: room(rooms[0]), restore }),
      device('right', line, { memoryBytes: room(rooms[1]), restore }),
    ],
    {
      workload: {
        ...{ sequences: 6, contextTokens: 64, prefillChunk: 3, outputTokens: 32 },
        ...{ allowEviction: true, ...workload },
      },
      policy: 'equal',
      objective: 'lockstep',
    },
  );
}

const planned = (input: PlanInput) => plan(input, () => 0);
const explained = (input: PlanInput) => explain(input, planned(input)).eviction;

describe('eviction', () => {
  it('costs its moves, away and back once a residency, on the heads of a rank', () => {
    const free = planned(inputOf(0));
    expect(free.eviction).toBeUndefined();
    const made = planned(inputOf(1e-6));
    // The left one has room for 3 of 6 sequences; 3 * 64 tokens of two heads go and come back every 32 steps.
    const seconds = (2 * 3 * 64 * 2 * 1e-6) / 32;
    expect(made.eviction?.residentSequences).toBe(3);
    expect(made.eviction?.moveSeconds).toBeCloseTo(seconds, 12);
    expect(made.predicted.decodeSeconds - free.predicted.decodeSeconds).toBeCloseTo(seconds, 12);
    const longer = planned(inputOf(1e-6, { outputTokens: 64 }));
    expect(longer.eviction?.moveSeconds).toBeCloseTo(seconds / 2, 12);
  });

  it('costs nothing where all KV fits, and what nothing fits is not evicted to death', () => {
    const fits = planned(inputOf(1e-6, {}, [6, 8]));
    expect(fits.eviction).toEqual({ residentSequences: 6, moveSeconds: 0 });
    expect(planned(inputOf(1e-6, {}, [0, 8]))).toMatchObject({
      feasible: false,
      eviction: { residentSequences: 1 },
    });
  });

  it('decides who takes heads: the rank with room, when moves cost more than it is slower', () => {
    const slow = { constant: 1e-2, perHeadGroup: 1.5e-3, perFfnColumn: 1e-5 };
    const heads = (seconds: number) => {
      const input = { ...inputOf(seconds, {}, [3, 40]), policy: 'hels' as const };
      const [left, right] = input.devices;
      const link = { constant: 0, perToken: 0 };
      const devices = [left, { ...right, decode: slow }].map((one) => ({ ...one, link }));
      const made = planned({ ...input, devices } as PlanInput);
      const rank = made.ranks.find((one) => one.device === 'left');
      const [begin, end] = rank?.headGroups ?? [0, 0];
      return { left: end - begin, resident: made.eviction?.residentSequences };
    };
    expect(heads(1e-9).left).toBeGreaterThanOrEqual(2);
    expect(heads(1e-9).resident).toBeLessThan(6);
    expect(heads(1e-3)).toMatchObject({ resident: 6 });
    expect(heads(1e-3).left).toBeLessThan(2);
  });

  it('and lending are weighed against each other', () => {
    const link = { constant: 1e-4, perToken: 0 };
    const lent = (seconds: number) => {
      const input = inputOf(seconds, { allowRemoteKv: true }, [4, 20]);
      return planned({ ...input, link }).eviction?.residentSequences;
    };
    // Without moves worth mentioning an exchange is dearer than giving way.
    expect(lent(1e-9)).toBe(4);
    expect(lent(1e-3)).toBe(6);
  });

  it('is explained: how much of the KV, what a step pays, and whether a smaller batch is better', () => {
    expect(explained(inputOf(1e-3))?.text).toMatch(
      /^50.0 % of the KV has no room and is evicted, which takes 24.00 ms a step, \d+.\d % of it; a smaller batch is better: 3 sequences, all resident, at \d+ tokens\/s, against \d+$/,
    );
    expect(explained(inputOf(1e-6))?.text).toMatch(
      /; it pays, if all sequences run all the time: /,
    );
    expect(explained(inputOf(0))).toMatchObject({ evictedShare: 0.5, moveSeconds: null });
    expect(explained(inputOf(0))?.text).toMatch(
      /give devices\[\].restore and workload.outputTokens/,
    );
    expect(explained(inputOf(1e-6, {}, [6, 8]))?.text).toMatch(/^all KV is resident/);
    expect(explained(inputOf(1e-6, { allowEviction: false }, [6, 8]))).toBeUndefined();
  });
});
