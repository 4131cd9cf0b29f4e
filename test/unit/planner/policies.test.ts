import { describe, expect, test } from 'vitest';
import { apportion } from '../../../controller/planner/apportion.ts';
import { plan } from '../../../controller/planner/plan.ts';
import {
  type PlanDevice,
  type PlanOutput,
  type PlanPolicy,
  planPolicies,
} from '../../../proto/domain/plan.ts';
import { device, smallInput } from './inputs.ts';

const frozen = (): number => 0;

function planned(policy: PlanPolicy, devices: PlanDevice[]): PlanOutput {
  return plan(smallInput(devices, { policy }), frozen);
}

const headsOf = (output: PlanOutput): Record<string, number> =>
  Object.fromEntries(
    output.ranks.map(({ device: id, headGroups: [begin, end] }) => [id, end - begin]),
  );

describe('apportion', () => {
  test('gives the largest remainders the missing units', () => {
    expect(apportion(10, [1, 1, 1])).toEqual([4, 3, 3]);
    expect(apportion(7, [0.5, 0.2, 0.3])).toEqual([4, 1, 2]);
  });

  test('counts all-zero weights as equal and survives huge ones', () => {
    expect(apportion(4, [0, 0])).toEqual([2, 2]);
    expect(apportion(4, [1e308, 1e308])).toEqual([2, 2]);
  });

  test('an endless weight takes everything', () => {
    expect(apportion(5, [Number.POSITIVE_INFINITY, 1])).toEqual([5, 0]);
  });
});

describe('baselines', () => {
  const fast = device('fast', { perHeadGroup: 1, perFfnColumn: 0.25 });
  const slow = device('slow', { perHeadGroup: 3, perFfnColumn: 0.75 });

  test('equal gives every device the same, nearest units where that is not whole', () => {
    expect(headsOf(planned('equal', [fast, slow]))).toEqual({ fast: 2, slow: 2 });
    const three = planned('equal', [fast, slow, device('third', {})]);
    expect(three.ranks.map(({ vocabRows }) => vocabRows)).toEqual([
      [0, 3],
      [3, 7],
      [7, 10],
    ]);
  });

  test('compute follows speed: a third of the speed gets a quarter', () => {
    const output = planned('compute', [fast, slow]);
    expect(headsOf(output)).toEqual({ fast: 3, slow: 1 });
    expect(output.ranks[0]?.ffnColumns).toEqual([0, 12]);
  });

  test('memory follows the memory that is not reserved', () => {
    const output = planned('memory', [
      { ...fast, memoryBytes: 40_000, reservedBytes: 10_000 },
      { ...slow, memoryBytes: 90_000 },
    ]);
    expect(headsOf(output)).toEqual({ fast: 1, slow: 3 });
  });

  test('stepwise moves on while one of two equal slow devices still has to give', () => {
    const devices = ['fast-0', 'fast-1', 'slow-0', 'slow-1'].map((id) =>
      device(id, { perHeadGroup: id.startsWith('fast') ? 1 : 5 }),
    );
    const input = smallInput(devices, { policy: 'stepwise' });
    const model = { ...input.model, headGroups: 12 };
    // By memory 3 each: the slow two take 15 s, and the step falls only when both have given one. It ends at 5, 5, 1, 1.
    expect(plan({ ...input, model }, () => 0).predicted.decodeSeconds).toBe(5);
  });

  test('stepwise starts from memory and moves heads until the step no longer falls', () => {
    // By memory 2 + 2: 3 and 9 seconds. One move: 4*0.75 + ... = 4.5 and 4.5. A second one would take 6.
    const output = planned('stepwise', [fast, slow]);
    expect(headsOf(output)).toEqual({ fast: 3, slow: 1 });
    expect(output.predicted.decodeSeconds).toBe(6);
  });

  test('a baseline that does not fit says which device lacks how much', () => {
    const small = { ...slow, memoryBytes: 1000 };
    const output = planned('equal', [fast, small]);
    expect(output.feasible).toBe(false);
    expect(output.predicted.bindingConstraint).toBe('memory');
    // 160 + 2*512 + 8*96 + 5*16 of weights and 20*2*32 of KV, in 1000 bytes.
    expect(output.reason).toContain("memory: device 'slow'");
    expect(output.reason).toContain('1.98 KiB of weights and 1.25 KiB of KV');
    expect(output.reason).toContain('2.26 KiB lack');
  });
});

describe('lines that cannot be seconds of a step are refused by the device', () => {
  test.each([
    [1e308, 'gives Infinity seconds'],
    [1e-320, 'seconds for the whole model; it must be 0 or from 1e-12 to 1000000000000'],
  ])('%d seconds per head group', (perHeadGroup, message) => {
    const devices = [device('a', { constant: 1 }), device('b', { perHeadGroup })];
    for (const policy of planPolicies) {
      expect(() => planned(policy, devices)).toThrow('plan input: devices[1].decode gives');
      expect(() => planned(policy, devices)).toThrow(message);
    }
  });

  test('lines of 0 seconds are fine', () => {
    expect(planned('hels', [device('a', {}), device('b', {})]).predicted.decodeSeconds).toBe(0);
  });
});

describe('hels', () => {
  test('one device takes everything', () => {
    const output = planned('hels', [device('a', { perHeadGroup: 1 })]);
    expect(output.ranks).toHaveLength(1);
    expect(output.ranks[0]).toMatchObject({
      headGroups: [0, 4],
      ffnColumns: [0, 16],
      vocabRows: [0, 10],
      kvShare: 1,
    });
  });

  test('heads go where attention is fast, columns where the MLP is', () => {
    const output = planned('hels', [
      device('attention', { perHeadGroup: 1, perFfnColumn: 10 }),
      device('mlp', { perHeadGroup: 10, perFfnColumn: 0.25 }),
    ]);
    expect(output.ranks.map(({ headGroups }) => headGroups)).toEqual([
      [0, 4],
      [4, 4],
    ]);
    expect(output.ranks.map(({ ffnColumns }) => ffnColumns)).toEqual([
      [0, 0],
      [0, 16],
    ]);
    expect(output.predicted.decodeSeconds).toBe(4);
  });

  test('leaves a device out that would only slow the others down', () => {
    const link = { constant: 2, perToken: 0 };
    const output = plan(
      smallInput([device('fast', { perHeadGroup: 1 }), device('slow', { perHeadGroup: 9 })], {
        link,
      }),
      frozen,
    );
    expect(output.ranks.map(({ device: id }) => id)).toEqual(['fast']);
    expect(output.predicted.decodeSeconds).toBe(4);
  });

  test.each([
    // Room for the embedding, one head group, its KV, one granule and a few rows. Without KV another head group would fit.
    { memoryBytes: 160 + 512 + 640 + 384 + 160, contextTokens: 10, binding: 'kv' },
    // The KV is small; the weights of another head group do not fit.
    { memoryBytes: 160 + 512 + 64 + 384, contextTokens: 1, binding: 'memory' },
  ])('memory moves work to the slower device, bound by $binding', (limits) => {
    const output = plan(
      smallInput(
        [
          device('fast', { perHeadGroup: 1 }, { memoryBytes: limits.memoryBytes }),
          device('slow', { perHeadGroup: 2 }),
        ],
        {
          workload: {
            sequences: 2,
            contextTokens: limits.contextTokens,
            prefillChunk: 3,
            outputTokens: 5,
          },
        },
      ),
      frozen,
    );
    expect(output.feasible).toBe(true);
    expect(headsOf(output)).toEqual({ fast: 1, slow: 3 });
    expect(output.predicted.decodeSeconds).toBe(6);
    expect(output.predicted.bindingConstraint).toBe(limits.binding);
  });

  test('whole head groups leave a device idle: granularity binds', () => {
    const one = device('a', { perHeadGroup: 1 });
    const output = planned('hels', [one, { ...one, id: 'b' }, { ...one, id: 'c' }]);
    expect(output.predicted.decodeSeconds).toBe(2);
    expect(output.predicted.bindingConstraint).toBe('granularity');
  });

  test('balanced devices are bound by compute', () => {
    const one = device('a', { perHeadGroup: 1 });
    expect(planned('hels', [one, { ...one, id: 'b' }]).predicted.bindingConstraint).toBe('compute');
  });

  test('zero coefficients everywhere still give a whole plan', () => {
    const output = planned('hels', [device('a', {}), device('b', {})]);
    expect(output.feasible).toBe(true);
    expect(output.predicted.decodeSeconds).toBe(0);
  });

  test('no split fits: the reason sums up what is needed and what lacks', () => {
    const tiny = device('a', { perHeadGroup: 1 }, { memoryBytes: 2000 });
    const output = planned('hels', [tiny, { ...tiny, id: 'b' }]);
    expect(output.feasible).toBe(false);
    // Weights 160 + 4*512 + 16*96 + 10*16 = 3904, KV 20*4*32 = 2560, room 4000 - 160.
    expect(output.reason).toContain('memory: 3.81 KiB of weights and 2.50 KiB of KV');
    expect(output.reason).toContain('2.56 KiB lack');
    expect(output.ranks.at(-1)?.headGroups[1]).toBe(4);
  });

  test('KV that does not fit is named apart from weights that do not', () => {
    const tight = device('a', { perHeadGroup: 1 }, { memoryBytes: 4000 });
    const output = planned('hels', [tight]);
    expect(output.feasible).toBe(false);
    expect(output.predicted.bindingConstraint).toBe('kv');
    expect(output.reason).toMatch(/^kv: /);
  });

  test('no device holds the embedding', () => {
    const output = planned('hels', [device('a', {}, { memoryBytes: 100 })]);
    expect(output.reason).toContain('no device holds even the token embedding (160 B)');
  });
});

describe('the output', () => {
  test('ranges are contiguous in device order, shares sum to 1, KV tokens are the least of the ranks with heads', () => {
    const output = planned('hels', [
      device('a', { perHeadGroup: 1, perFfnColumn: 0.5 }, { memoryBytes: 20_000 }),
      device('b', { perHeadGroup: 2, perFfnColumn: 0.25 }, { memoryBytes: 10_000 }),
      device('c', { perHeadGroup: 50, perFfnColumn: 0.125 }, { memoryBytes: 5_000 }),
    ]);
    const { ranks, predicted } = output;
    let heads = 0;
    for (const rank of ranks) {
      expect(rank.headGroups[0]).toBe(heads);
      heads = rank.headGroups[1];
    }
    expect(heads).toBe(4);
    expect(ranks.reduce((sum, { kvShare }) => sum + kvShare, 0)).toBeCloseTo(1, 12);
    const withHeads = ranks.filter(({ headGroups: [begin, end] }) => end > begin);
    expect(withHeads.length).toBeLessThan(ranks.length);
    expect(predicted.kvTokensTotal).toBe(Math.min(...withHeads.map(({ kvTokens }) => kvTokens)));
    for (const rank of ranks.filter((one) => !withHeads.includes(one))) {
      expect(rank).toMatchObject({ kvBytes: 0, kvTokens: predicted.kvTokensTotal });
    }
    expect(predicted.decodeSeconds).toBe(Math.max(...predicted.perRankSeconds));
    expect(predicted.perRankSeconds).toHaveLength(ranks.length);
  });

  test('the clock only times the solver', () => {
    let now = 5;
    const output = plan(smallInput([device('a', {})]), () => {
      now += 7;
      return now;
    });
    expect(output.solver.milliseconds).toBe(7);
  });

  test('the link binds when it is most of the step', () => {
    const tight = { memoryBytes: 5000 };
    const output = plan(
      smallInput(
        [device('a', { perHeadGroup: 1 }, tight), device('b', { perHeadGroup: 1 }, tight)],
        {
          link: { constant: 10, perToken: 0 },
        },
      ),
      frozen,
    );
    expect(output.predicted.bindingConstraint).toBe('link');
  });
});
