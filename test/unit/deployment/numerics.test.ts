import { describe, expect, it } from 'vitest';
import {
  differingWorkers,
  exactnessOf,
  numericsClassOf,
} from '../../../controller/deployment/numerics.ts';
import { shardPlan } from '../../support/shard-plan.ts';

const groupOf = (fingerprints: string[], numerics = 'exact') => ({
  shardPlan: shardPlan(
    fingerprints.map((_, rank) => ({ workerId: 'abcd'[rank] ?? '', headGroups: [rank, rank + 1] })),
    { numerics },
  ),
  fingerprints,
});

describe('the numerics of a group', () => {
  it.each([
    [['x'], 'exact', true, []],
    [['x', 'x', 'x'], 'exact', true, []],
    [['x', 'y', 'x'], 'mixed', false, ['b']],
    [['y', 'x', 'x', 'z'], 'mixed', false, ['a', 'd']],
    // Nobody is the odd one out: those that differ from the first.
    [['x', 'y'], 'mixed', false, ['b']],
  ])('of kernels %j are %s, exact: %s; %j differ', (fingerprints, expected, exact, differing) => {
    const group = groupOf(fingerprints);
    expect(numericsClassOf(group.shardPlan, fingerprints)).toBe(expected);
    expect(differingWorkers(group)).toEqual(differing);
    expect(exactnessOf(group)).toEqual({ exactNumerics: exact, differingWorkers: differing });
  });

  it('that are fast promise no bits, so nobody differs', () => {
    const group = groupOf(['x', 'y'], 'fast');
    expect(exactnessOf(group)).toEqual({ exactNumerics: false, differingWorkers: [] });
  });
});
