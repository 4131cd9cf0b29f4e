import fc from 'fast-check';
import { expect, test } from 'vitest';
import { evaluate } from '../../controller/planner/evaluate.ts';
import { parsePlanInput } from '../../controller/planner/parse-plan-input.ts';
import { memorySplit } from '../../controller/planner/policies/memory.ts';
import { compileProblem, type Problem } from '../../controller/planner/problem.ts';
import { splitOf } from '../../controller/planner/search/exact-oracle.ts';
import { type DeviceOptions, optionsBetween } from '../../controller/planner/search/options.ts';
import { Pruning } from '../../controller/planner/search/pruning.ts';
import { reachWithin } from '../../controller/planner/search/reach.ts';
import { type Window, windowsOf } from '../../controller/planner/search/windows.ts';
import { parameters, planInputs } from './planner-instances.ts';

const limits = { devicesMax: 6, headGroups: [4, 8, 12], granules: [8, 9, 16] };

/** The windows and options of a complete search within some seconds. */
function searchOf(problem: Problem, seconds: number) {
  const reaches = reachWithin(problem, seconds, Number.POSITIVE_INFINITY) ?? [];
  const windows = windowsOf(problem, reaches, null);
  const options = reaches.map((reach, index) =>
    optionsBetween(problem, reach, windows[index] as Window, windows[index + 1] as Window),
  );
  return { windows, options };
}

const countOf = (devices: readonly DeviceOptions[]) =>
  devices.reduce((sum, { heads }) => sum + heads.length, 0);

test('what pruning leaves out changes no answer of the oracle, whatever step time was asked for before', () => {
  const factor = fc.double({ min: 0.2, max: 1.5, noNaN: true });
  let all = 0;
  let kept = 0;
  let found = 0;
  fc.assert(
    fc.property(
      planInputs(limits),
      fc.array(factor, { minLength: 1, maxLength: 5 }),
      (input, factors) => {
        const problem = compileProblem(parsePlanInput(input));
        const pruning = new Pruning(problem);
        const { decodeSeconds } = evaluate(problem, memorySplit(problem));
        for (const each of factors) {
          const { windows, options } = searchOf(problem, decodeSeconds * each);
          const promising = pruning.promising(options);
          const expected = splitOf(problem, options, windows);
          expect(promising && splitOf(problem, promising, windows)).toEqual(expected);
          if (expected === null) continue;
          found += 1;
          all += countOf(options);
          kept += countOf(promising ?? []);
        }
      },
    ),
    parameters,
  );
  expect(found).toBeGreaterThan(10);
  expect(kept).toBeLessThan(all);
});
