import { describe, expect, test } from 'vitest';
import { parsePlanInput } from '../../../controller/planner/parse-plan-input.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { LinkLine } from '../../../proto/domain/plan.ts';
import { device, smallInput } from './inputs.ts';

/** The input with one value replaced; `path` names object keys and list indices. */
function withValue(path: readonly (string | number)[], value: unknown): unknown {
  const input = structuredClone(smallInput([device('a', { constant: 1 })])) as unknown;
  let target = input as Record<string | number, unknown>;
  for (const key of path.slice(0, -1)) target = target[key] as Record<string | number, unknown>;
  target[path.at(-1) as string] = value;
  return input;
}

function failureOf(json: unknown): HelsError {
  try {
    parsePlanInput(json);
  } catch (error) {
    if (error instanceof HelsError) return error;
    throw error;
  }
  throw new Error('the input was accepted');
}

const line = ['devices', 0, 'decode'] as const;

describe('a wrong field is named with its value and its range', () => {
  test.each([
    [
      [...line, 'constant'],
      Number.NaN,
      'devices[0].decode[0].constant is NaN',
      'finite number of at least 0',
    ],
    [[...line, 'perHeadGroup'], -1, 'devices[0].decode[0].perHeadGroup is -1', 'at least 0'],
    [[...line, 'perFfnColumn'], Number.POSITIVE_INFINITY, 'perFfnColumn is Infinity', 'finite'],
    [[...line, 'perFfnColumn'], '1', 'perFfnColumn is "1"', 'finite number'],
    [[...line, 'perHead'], 1, 'devices[0].decode[0].perHead', 'not a field of the plan input'],
    [[...line], [], 'devices[0].decode is []', '1 to 4'],
    [[...line], [{}, {}, {}, {}, {}], 'devices[0].decode', '1 to 4'],
    [[...line], undefined, 'devices[0].decode is missing', 'a latency line or a list'],
    [['devices'], [], 'devices is []', 'at least one device'],
    [['devices'], 'all', 'devices is "all"', 'a list of devices'],
    [['devices', 0], null, 'devices[0] is null', 'an object'],
    [['devices', 0, 'id'], '', 'devices[0].id is ""', 'not be empty'],
    [['devices', 0, 'memoryBytes'], 0, 'devices[0].memoryBytes is 0', 'above 0'],
    [['devices', 0, 'reservedBytes'], -5, 'devices[0].reservedBytes is -5', 'at least 0'],
    [['devices', 0, 'link'], { perToken: -1 }, 'devices[0].link.perToken is -1', 'at least 0'],
    [['devices', 0, 'link'], { perToken: null }, 'devices[0].link.perToken is null', 'at least 0'],
    [['devices', 0, 'memoryBytes'], null, 'devices[0].memoryBytes is null', 'above 0'],
    [['model', 'headGroups'], 0, 'model.headGroups is 0', 'from 1 to'],
    [['model', 'headGroups'], 2.5, 'model.headGroups is 2.5', 'whole number'],
    [['model', 'ffnMatrices'], 4, 'model.ffnMatrices is 4', 'from 2 to 3'],
    [['model', 'weightBytesPerParam'], 0, 'model.weightBytesPerParam is 0', 'above 0'],
    [['model'], undefined, 'model is missing', 'an object'],
    [['workload', 'sequences'], 0, 'workload.sequences is 0', 'from 1 to'],
    [['workload', 'allowEviction'], 'yes', 'workload.allowEviction is "yes"', 'true or false'],
    [['policy'], 'best', 'policy is "best"', 'hels, stepwise, optimal, compute, memory, equal'],
  ])('%j = %j', (path, value, name, range) => {
    const failure = failureOf(withValue(path, value));
    expect(failure.code).toBe('config-invalid');
    expect(failure.message).toContain(name);
    expect(failure.message).toContain(range);
    expect(failure.message).not.toContain('\n');
    expect(failure.field).not.toBeNull();
  });

  test.each([[null], [[]], ['text'], [7]])('the whole input is %j', (json) => {
    expect(failureOf(json).message).toContain('the input is');
  });
});

test('two devices of one id are refused by both their places', () => {
  const twice = smallInput([device('a', {}), device('b', {}), device('a', {})]);
  expect(failureOf(twice).message).toContain("devices[2].id is 'a' like devices[0].id");
});

test('defaults: policy hels, no eviction, nothing reserved', () => {
  const { devices, ...rest } = smallInput([device('a', {})]);
  const { reservedBytes: _, ...bare } = devices[0]!;
  const parsed = parsePlanInput({ ...rest, devices: [bare] });
  expect(parsed.policy).toBe('hels');
  expect(parsed.workload.allowEviction).toBe(false);
  expect(parsed.devices[0]?.reservedBytes).toBe(0);
});

test('coefficients that are absent are 0, of links and of restoring', () => {
  const restore = { hiddenSecondsPerToken: 1e-6 };
  const one = device('a', {}, { link: { constant: 1e-4 } as LinkLine, restore });
  const parsed = parsePlanInput({ ...smallInput([one]), link: {} });
  expect(parsed.devices[0]?.link).toEqual({ constant: 1e-4, perToken: 0 });
  expect(parsed.devices[0]?.restore).toEqual(restore);
  expect(parsed.link).toEqual({ constant: 0, perToken: 0 });
});

test('null for an object that may be left out is the same as leaving it out', () => {
  const input = smallInput([device('a', {})]);
  const devices = input.devices.map((entry) => ({ ...entry, link: null, restore: null }));
  expect(parsePlanInput({ ...input, devices, link: null })).toEqual(parsePlanInput(input));
});
