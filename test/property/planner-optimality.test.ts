import fc from 'fast-check';
import highsLoader, { type LegacyHighs } from 'highs';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { evaluate } from '../../controller/planner/evaluate.ts';
import { parsePlanInput } from '../../controller/planner/parse-plan-input.ts';
import { plan } from '../../controller/planner/plan.ts';
import { helsLimits, helsSplit } from '../../controller/planner/policies/hels.ts';
import { optimalSplit } from '../../controller/planner/policies/optimal.ts';
import { compileProblem, type Problem } from '../../controller/planner/problem.ts';
import type { PlanInput, PlanPolicy } from '../../proto/domain/plan.ts';
import { instances, parameters, planInputs } from './planner-instances.ts';

// Generous: the long run asks for many instances, and CI may have few cores.
vi.setConfig({ testTimeout: 60_000 + 500 * instances });

const problemOf = (input: PlanInput): Problem => compileProblem(parsePlanInput(input));

const secondsOf = (input: PlanInput, policy: PlanPolicy): number => {
  const { feasible, predicted } = plan({ ...input, policy }, () => 0);
  return feasible ? predicted.decodeSeconds : Number.POSITIVE_INFINITY;
};

const percent = (share: number): string => `${(share * 100).toFixed(3)} %`;

/** The gap to the optimum over all instances, as a line of figures. */
function summary(name: string, gaps: readonly number[]): string {
  const sorted = [...gaps].sort((left, right) => left - right);
  const finite = sorted.filter((gap) => gap < Number.POSITIVE_INFINITY);
  return (
    `${name}: median ${percent(sorted[Math.floor(sorted.length / 2)] ?? 0)}, worst ${percent(finite.at(-1) ?? 0)}, ` +
    `no feasible split on ${sorted.length - finite.length} of ${sorted.length}`
  );
}

test('hels is within 1 % of the optimum and finds a split wherever there is one', () => {
  const gaps = new Map<PlanPolicy, number[]>();
  fc.assert(
    fc.property(planInputs(), (input) => {
      const best = secondsOf(input, 'optimal');
      const ours = secondsOf(input, 'hels');
      if (best === Number.POSITIVE_INFINITY) {
        expect(ours).toBe(best);
        return;
      }
      expect(ours).toBeGreaterThanOrEqual(best * (1 - 1e-9));
      expect(ours).toBeLessThanOrEqual(best * 1.01);
      for (const policy of ['hels', 'stepwise', 'compute', 'memory', 'equal'] as const) {
        const gap = secondsOf(input, policy) / best - 1;
        gaps.set(policy, [...(gaps.get(policy) ?? []), gap]);
      }
    }),
    parameters,
  );
  const lines = [...gaps].map(([policy, values]) => summary(policy, values));
  process.stdout.write(`gap to the optimum over ${instances} instances\n  ${lines.join('\n  ')}\n`);
});

/** All ways to write `total` as `parts` whole numbers >= 0. */
function* compositions(total: number, parts: number): Generator<number[]> {
  if (parts === 1) {
    yield [total];
    return;
  }
  for (let first = 0; first <= total; first += 1) {
    for (const rest of compositions(total - first, parts - 1)) yield [first, ...rest];
  }
}

function bruteForce(problem: Problem): number {
  const parts = problem.devices.length;
  let best = Number.POSITIVE_INFINITY;
  for (const headGroups of compositions(problem.headGroups, parts)) {
    for (const granules of compositions(problem.granules, parts)) {
      for (const vocabRows of compositions(problem.vocabRows, parts)) {
        const { feasible, decodeSeconds } = evaluate(problem, { headGroups, granules, vocabRows });
        if (feasible && decodeSeconds < best) best = decodeSeconds;
      }
    }
  }
  return best;
}

test('optimal is the best of all splits where all can be tried', () => {
  const small = planInputs({ devicesMax: 3, headGroups: [2, 3, 4], granules: [2, 3] });
  fc.assert(
    fc.property(small, (input) => {
      // Few but heavy rows: the same bytes and seconds in 6 pieces.
      const rowsScale = 32000 / 6;
      const problem = problemOf(input);
      const coarse: Problem = {
        ...problem,
        vocabRows: 6,
        footprint: { ...problem.footprint, perRow: problem.footprint.perRow * rowsScale },
        devices: problem.devices.map((device) => ({
          ...device,
          decode: device.decode.map((line) => ({ ...line, perRow: line.perRow * rowsScale })),
        })),
      };
      const { best } = optimalSplit(coarse);
      const exact = bruteForce(coarse);
      if (exact === Number.POSITIVE_INFINITY) expect(best).toBeNull();
      else expect(best!.evaluation.decodeSeconds / exact).toBeCloseTo(1, 9);
    }),
    { ...parameters, numRuns: Math.min(instances, 40) },
  );
});

/** The mixed-integer programme of design section 6 in LP format, times in milliseconds, memory in MB. */
function linearProgramme(problem: Problem): string {
  const { devices, footprint } = problem;
  const term = (factor: number, name: string): string =>
    `${factor >= 0 ? '+' : ''}${factor} ${name}`;
  const rows: string[] = [];
  const sum = (prefix: string): string =>
    devices.map((_, index) => `${prefix}${index}`).join(' + ');
  rows.push(`${sum('h')} = ${problem.headGroups}`, `${sum('g')} = ${problem.granules}`);
  rows.push(`${sum('v')} = ${problem.vocabRows}`);
  const headBytes = footprint.perHeadGroup + problem.residentTokens * footprint.kvPerTokenHeadGroup;
  for (const [index, device] of devices.entries()) {
    for (const line of device.decode) {
      rows.push(
        [
          term(line.perHeadGroup * 1e3, `h${index}`),
          term(line.perColumn * problem.granuleColumns * 1e3, `g${index}`),
          term(line.perRow * 1e3, `v${index}`),
          term((line.constant + device.decodeLink) * 1e3, `u${index}`),
          '- t <= 0',
        ].join(' '),
      );
    }
    rows.push(
      [
        term(headBytes / 1e6, `h${index}`),
        term((footprint.perColumn * problem.granuleColumns) / 1e6, `g${index}`),
        term(footprint.perRow / 1e6, `v${index}`),
        `<= ${(device.roomBytes - footprint.fixed) / 1e6}`,
      ].join(' '),
    );
    rows.push(`h${index} - ${problem.headGroups} u${index} <= 0`);
    rows.push(`g${index} - ${problem.granules} u${index} <= 0`);
    rows.push(`v${index} - ${problem.vocabRows} u${index} <= 0`);
  }
  const general = devices.flatMap((_, index) => [`h${index}`, `g${index}`]).join(' ');
  const binary = devices.map((_, index) => `u${index}`).join(' ');
  return `Minimize\n t\nSubject To\n ${rows.join('\n ')}\nGeneral\n ${general}\nBinary\n ${binary}\nEnd\n`;
}

describe('against HiGHS', () => {
  let highs: LegacyHighs;
  beforeAll(async () => {
    // Its types describe an ES module, but the package is CommonJS: the import itself is the loader.
    const load = highsLoader as unknown as typeof highsLoader.default;
    highs = await load();
  });

  test('optimal over two or more devices is what a mixed-integer solver finds', () => {
    // Rows are continuous there and whole here: a row more or less is the difference.
    const rowError = 1e-4;
    const inputs = planInputs({ devicesMax: 4, headGroups: [4, 8], granules: [8, 16] });
    let compared = 0;
    for (const input of fc.sample(inputs, { seed: parameters.seed, numRuns: 200 })) {
      if (compared === 30) break;
      const { model } = input;
      const whole = { ...model, ffnColumns: Math.ceil(model.ffnColumns / 512) * 512 };
      const problem = problemOf({ ...input, model: whole });
      // The programme pays the link on single devices too, so only plans over two or more devices compare.
      const solution = highs.solve(linearProgramme(problem));
      const { best } = optimalSplit(problem);
      if (solution.Status === 'Infeasible') {
        expect(
          best === null ||
            best.evaluation.shares.filter((share) => share.headGroups > 0).length === 1,
        ).toBe(true);
        continue;
      }
      expect(solution.Status).toBe('Optimal');
      const ours = best!.evaluation;
      const used = ours.deviceSeconds.filter((seconds) => seconds > 0).length;
      const theirs = solution.ObjectiveValue / 1e3;
      if (used === 1) expect(ours.decodeSeconds).toBeLessThanOrEqual(theirs * (1 + rowError));
      else {
        compared += 1;
        expect(Math.abs(ours.decodeSeconds / theirs - 1)).toBeLessThan(rowError);
      }
    }
    // Infeasible instances and plans of a single device are judged above and do not count.
    expect(compared).toBe(30);
  });
});

test('beyond the complete search hels still beats the baselines and keeps within its proven bound', () => {
  const limits = { ...helsLimits, exactWorkMax: 0 };
  fc.assert(
    fc.property(planInputs(), (input) => {
      const problem = problemOf(input);
      const { best } = helsSplit(problem, limits);
      const exact = optimalSplit(problem).best;
      if (best === null) return;
      expect(best.evaluation.feasible).toBe(true);
      expect(best.evaluation.decodeSeconds).toBeGreaterThanOrEqual(
        exact!.evaluation.decodeSeconds * (1 - 1e-9),
      );
      for (const policy of ['equal', 'compute', 'memory', 'stepwise'] as const) {
        expect(best.evaluation.decodeSeconds).toBeLessThanOrEqual(secondsOf(input, policy));
      }
    }),
    { ...parameters, numRuns: 20 },
  );
});
