import { describe, expect, it } from 'vitest';
import { candidateOf } from '../../../controller/planner/evaluate.ts';
import { linkSeconds } from '../../../controller/planner/link-seconds.ts';
import { groupSeconds, phasesOf } from '../../../controller/planner/lockstep.ts';
import { plan } from '../../../controller/planner/plan.ts';
import { compileProblem } from '../../../controller/planner/problem.ts';
import type { PlanInput } from '../../../proto/domain/plan.ts';

const line = (constant: number, perHeadGroup: number, perColumn: number, perRow: number) => ({
  constant,
  perHeadGroup,
  perColumn,
  perRow,
});
const share = (headGroups: number, ffnColumns: number, vocabRows: number) => ({
  headGroups,
  ffnColumns,
  vocabRows,
});

/** Devices of the given speeds with one line each and room for everything. */
function inputOf(speeds: readonly number[], link = 0, constant = 0): PlanInput {
  return {
    model: {
      layers: 12,
      hiddenSize: 768,
      headGroups: 12,
      queryHeadsPerGroup: 1,
      headDim: 64,
      ffnColumns: 2048,
      ffnGranule: 128,
      ffnMatrices: 3,
      vocabRows: 32_000,
      weightBytesPerParam: 2,
      kvBytesPerElement: 2,
    },
    workload: { sequences: 8, contextTokens: 256, prefillChunk: 256, outputTokens: 64 },
    devices: speeds.map((speed, index) => {
      const decode = {
        constant,
        perHeadGroup: 1e-4 / speed,
        perFfnColumn: 1e-6 / speed,
        perVocabRow: 5e-8 / speed,
      };
      const memory = { memoryBytes: 1e12, reservedBytes: 0 };
      return { id: `d${index}`, ...memory, decode, prefill: decode };
    }),
    link: { constant: link, perToken: 0 },
    objective: 'lockstep',
  };
}

describe('a step in lockstep', () => {
  it('takes the slowest rank of each phase', () => {
    const lines = [line(1, 2, 0, 0), line(0, 0, 3, 1)];
    // Attention 1 + 2*2 = 5 on the first, MLP 3*4 = 12 and output 1*5 = 5 on the second.
    const shares = [share(2, 0, 0), share(0, 4, 5)];
    const ranks = shares.map((one, index) => ({
      ...phasesOf([lines[index]!], one),
      link: index + 1,
    }));
    expect(groupSeconds(ranks, true)).toBe(22 + 2);
    // Ranks that meet once: the second, 12 + 5 and its link.
    expect(groupSeconds(ranks, false)).toBe(17 + 2);
  });

  it('is the sum of the lines for one device, also where they cross', () => {
    const lines = [line(1, 2, 0.5, 0), line(0, 1, 3, 2)];
    const alone = (one: ReturnType<typeof share>) =>
      groupSeconds([{ ...phasesOf(lines, one), link: 0 }], true);
    expect(alone(share(1, 1, 1))).toBeCloseTo(6);
    expect(alone(share(4, 0, 0))).toBeCloseTo(9);
  });
});

describe('the link', () => {
  const link = { constant: 1, perToken: 0.5, perTokenRing: 3 };

  it('counts the devices that take part', () => {
    expect([1, 2, 3, 4].map((participants) => linkSeconds(link, 2, participants))).toEqual([
      0,
      1 + 2 * (0.5 + 3),
      1 + 2 * (0.5 + 4),
      1 + 2 * (0.5 + 4.5),
    ]);
  });

  it('is not paid for devices that are left out', () => {
    const ring = { constant: 0, perToken: 0, perTokenRing: 1e-5 };
    // The third is so slow that no plan gives it anything.
    const pair = plan({ ...inputOf([1, 1]), link: ring }, () => 0);
    const trio = plan({ ...inputOf([1, 1, 1e-6]), link: ring }, () => 0);
    expect(trio.ranks.map(({ device }) => device)).toEqual(['d0', 'd1']);
    expect(trio.predicted.decodeSeconds).toBeCloseTo(pair.predicted.decodeSeconds, 12);
    expect(trio.predicted.perRankSeconds).toEqual(pair.predicted.perRankSeconds);
  });

  it('is refused where the search needs one that does not depend on who takes part', () => {
    const input = { ...inputOf([1, 1]), link, objective: 'step' as const };
    expect(() => plan(input, () => 0)).toThrow("link.perTokenRing is for objective 'lockstep'");
  });
});

describe('policy hels in lockstep', () => {
  it('does not trade heads against columns, which run one after the other', () => {
    const input = inputOf([1, 0.33, 0.33]);
    const { ranks, predicted } = plan(input, () => 0);
    // By speed 7.2 : 2.4 : 2.4 heads and 9.6 : 3.2 : 3.2 granules: the best whole ones.
    expect(ranks.map(({ headGroups: [a, b] }) => b - a)).toEqual([8, 2, 2]);
    expect(ranks.map(({ ffnColumns: [a, b] }) => (b - a) / 128)).toEqual([10, 3, 3]);
    const once = plan({ ...input, objective: 'step' }, () => 0);
    const problem = compileProblem(input);
    const size = ([a, b]: readonly [number, number]) => b - a;
    const asLockstep = candidateOf(problem, {
      headGroups: once.ranks.map(({ headGroups }) => size(headGroups)),
      granules: once.ranks.map(({ ffnColumns }) => size(ffnColumns) / 128),
      vocabRows: once.ranks.map(({ vocabRows }) => size(vocabRows)),
    });
    expect(predicted.decodeSeconds).toBeLessThanOrEqual(asLockstep.evaluation.decodeSeconds);
  });

  it('leaves devices out whose meetings cost more than they save', () => {
    const alone = plan(inputOf([1]), () => 0).predicted.decodeSeconds;
    const { ranks, predicted } = plan(inputOf([1, 0.3], alone), () => 0);
    expect(ranks.map(({ device }) => device)).toEqual(['d0']);
    expect(predicted.decodeSeconds).toBeCloseTo(alone, 12);
  });

  it('lets the other policies keep their splits and predicts them in lockstep too', () => {
    // Equal memory and unequal speeds: the source's loop has heads to move.
    for (const policy of ['equal', 'compute', 'memory', 'stepwise', 'optimal'] as const) {
      const once = plan({ ...inputOf([1, 0.3, 0.5]), policy, objective: 'step' }, () => 0);
      const locked = plan({ ...inputOf([1, 0.3, 0.5]), policy }, () => 0);
      expect(locked.ranks.map(({ headGroups }) => headGroups)).toEqual(
        once.ranks.map(({ headGroups }) => headGroups),
      );
      expect(locked.predicted.decodeSeconds).toBeGreaterThanOrEqual(
        once.predicted.decodeSeconds * (1 - 1e-12),
      );
    }
  });
});
