import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { plan } from '../../controller/planner/plan.ts';
import {
  type LatencyLine,
  type PlanInput,
  type PlanOutput,
  type PlanPolicy,
  planPolicies,
} from '../../proto/domain/plan.ts';
import { instances, parameters, planInputs } from './planner-instances.ts';

// Generous: the long run asks for many instances, and CI may have few cores.
vi.setConfig({ testTimeout: 60_000 + 500 * instances });

const planned = (input: PlanInput, policy: PlanPolicy): PlanOutput =>
  plan({ ...input, policy }, () => 0);

/** Seconds of a feasible plan; Infinity of an infeasible one, so that any plan is at least as good as none. */
const secondsOf = ({ feasible, predicted }: PlanOutput): number =>
  feasible ? predicted.decodeSeconds : Number.POSITIVE_INFINITY;

/** Room for the width at which the search ends. */
const rounding = 1 + 1e-6;

/** An independent reading of design section 6: seconds of a line list at T tokens attending to A in sum. */
function lineSeconds(
  lines: LatencyLine | LatencyLine[],
  [tokens, context]: readonly [number, number],
  [h, f, v]: readonly [number, number, number],
): number {
  const seconds = [lines].flat().map((line) => {
    const heads = (line.perHeadGroup ?? 0) + (line.perTokenHeadGroup ?? 0) * tokens;
    const columns = (line.perFfnColumn ?? 0) + (line.perTokenFfnColumn ?? 0) * tokens;
    const rows = (line.perVocabRow ?? 0) + (line.perTokenVocabRow ?? 0) * tokens;
    return (
      (line.constant ?? 0) +
      heads * h +
      columns * f +
      rows * v +
      (line.perContextHeadGroup ?? 0) * context * h
    );
  });
  return Math.max(...seconds);
}

function expectContiguous(ranges: readonly (readonly [number, number])[], total: number): void {
  let next = 0;
  for (const [begin, end] of ranges) {
    expect(begin).toBe(next);
    expect(end).toBeGreaterThanOrEqual(begin);
    next = end;
  }
  expect(next).toBe(total);
}

describe.each(planPolicies)('every plan of policy %s', (policy) => {
  test('covers the model exactly once, in granules, and predicts what design section 6 says', () => {
    const runs = policy === 'optimal' ? { ...parameters, numRuns: 10 } : parameters;
    fc.assert(
      fc.property(planInputs(), (input) => {
        const { model, workload } = input;
        const { ranks, predicted, feasible, reason } = planned(input, policy);
        expectContiguous(
          ranks.map((rank) => rank.headGroups),
          model.headGroups,
        );
        expectContiguous(
          ranks.map((rank) => rank.ffnColumns),
          model.ffnColumns,
        );
        expectContiguous(
          ranks.map((rank) => rank.vocabRows),
          model.vocabRows,
        );
        expect(ranks.reduce((sum, rank) => sum + rank.kvShare, 0)).toBeCloseTo(1, 9);
        let kvTokens = Number.POSITIVE_INFINITY;
        let fits = true;
        for (const [index, rank] of ranks.entries()) {
          const device = input.devices.find(({ id }) => id === rank.device)!;
          const counts = [rank.headGroups, rank.ffnColumns, rank.vocabRows].map(
            ([begin, end]) => end - begin,
          ) as [number, number, number];
          expect(Math.max(...counts)).toBeGreaterThan(0);
          const [begin, end] = rank.ffnColumns;
          expect(begin % model.ffnGranule === 0 || begin === model.ffnColumns).toBe(true);
          expect(end % model.ffnGranule === 0 || end === model.ffnColumns).toBe(true);
          const { sequences, contextTokens } = workload;
          const link =
            ranks.length > 1 ? device.link!.constant + device.link!.perToken * sequences : 0;
          const load = [sequences, sequences * contextTokens] as const;
          const seconds = lineSeconds(device.decode, load, counts) + link;
          expect(predicted.perRankSeconds[index]! / seconds).toBeCloseTo(1, 9);
          const room = device.memoryBytes - device.reservedBytes - rank.weightBytes;
          kvTokens = Math.min(kvTokens, rank.kvTokens);
          fits &&= room >= rank.kvBytes && room >= 0;
        }
        expect(predicted.kvTokensTotal).toBe(kvTokens);
        expect(predicted.decodeSeconds).toBe(Math.max(...predicted.perRankSeconds));
        expect(feasible).toBe(fits && kvTokens >= workload.sequences * workload.contextTokens);
        expect(feasible).toBe(reason === undefined);
      }),
      runs,
    );
  });
});

describe('hels', () => {
  test('is never slower than a baseline', () => {
    fc.assert(
      fc.property(planInputs(), (input) => {
        const ours = secondsOf(planned(input, 'hels'));
        for (const policy of ['equal', 'compute', 'memory', 'stepwise'] as const) {
          expect(ours).toBeLessThanOrEqual(secondsOf(planned(input, policy)));
        }
      }),
      parameters,
    );
  });

  test('is never slower than any subset of its devices', () => {
    fc.assert(
      fc.property(
        planInputs({ devicesMax: 5, headGroups: [4, 8, 32], granules: [8, 16] }),
        (input) => {
          const ours = secondsOf(planned(input, 'hels'));
          // Every subset but the empty one and the whole.
          for (let members = 1; members < 2 ** input.devices.length - 1; members += 1) {
            const devices = input.devices.filter((_, index) => (members >> index) % 2 === 1);
            const subset = secondsOf(planned({ ...input, devices }, 'hels'));
            expect(ours).toBeLessThanOrEqual(subset * rounding);
          }
        },
      ),
      parameters,
    );
  });

  test('is never slower than all its devices but one', () => {
    fc.assert(
      fc.property(planInputs(), (input) => {
        const ours = secondsOf(planned(input, 'hels'));
        for (const index of input.devices.keys()) {
          const devices = input.devices.toSpliced(index, 1);
          const subset = secondsOf(planned({ ...input, devices }, 'hels'));
          expect(ours).toBeLessThanOrEqual(subset * rounding);
        }
      }),
      parameters,
    );
  });

  test('more memory or more speed never hurts', () => {
    const which = fc.nat({ max: 15 });
    fc.assert(
      fc.property(planInputs(), which, (input, draw) => {
        const chosen = draw % input.devices.length;
        const ours = secondsOf(planned(input, 'hels'));
        const faster = (lines: LatencyLine | LatencyLine[]): LatencyLine[] =>
          [lines].flat().map((line) => {
            const scaled = Object.entries(line).map(([term, value]) => [term, value * 0.7]);
            return Object.fromEntries(scaled) as LatencyLine;
          });
        const replaced = (change: (device: PlanInput['devices'][number]) => object): PlanInput => ({
          ...input,
          devices: input.devices.map((device, index) =>
            index === chosen ? { ...device, ...change(device) } : device,
          ),
        });
        const larger = replaced(({ memoryBytes }) => ({ memoryBytes: memoryBytes * 1.3 }));
        const quicker = replaced(({ decode }) => ({ decode: faster(decode) }));
        expect(secondsOf(planned(larger, 'hels'))).toBeLessThanOrEqual(ours * rounding);
        expect(secondsOf(planned(quicker, 'hels'))).toBeLessThanOrEqual(ours * rounding);
      }),
      parameters,
    );
  });

  test('times twice as long give a step twice as long; bytes twice as large the same split', () => {
    const doubled = (value: unknown): unknown => {
      if (typeof value === 'number') return value * 2;
      if (Array.isArray(value)) return value.map(doubled);
      return Object.fromEntries(
        Object.entries(value as object).map(([key, part]) => [key, doubled(part)]),
      );
    };
    fc.assert(
      fc.property(planInputs(), (input) => {
        const ours = planned(input, 'hels');
        const slower = planned(
          {
            ...input,
            devices: input.devices.map((device) => ({
              ...device,
              decode: doubled(device.decode) as LatencyLine[],
              prefill: doubled(device.prefill) as LatencyLine[],
              link: doubled(device.link) as { constant: number; perToken: number },
            })),
          },
          'hels',
        );
        expect(slower.predicted.decodeSeconds / ours.predicted.decodeSeconds).toBeCloseTo(2, 9);
        const { weightBytesPerParam, kvBytesPerElement } = input.model;
        const larger = planned(
          {
            ...input,
            model: {
              ...input.model,
              weightBytesPerParam: weightBytesPerParam * 2,
              kvBytesPerElement: kvBytesPerElement * 2,
            },
            devices: input.devices.map((device) => ({
              ...device,
              memoryBytes: device.memoryBytes * 2,
              reservedBytes: device.reservedBytes * 2,
            })),
          },
          'hels',
        );
        expect(larger.ranks.map(({ headGroups }) => headGroups)).toEqual(
          ours.ranks.map(({ headGroups }) => headGroups),
        );
      }),
      parameters,
    );
  });
});
