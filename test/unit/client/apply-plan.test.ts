import { describe, expect, it } from 'vitest';
import { formatMove, formatProposal, replanOptions } from '../../../client/helsctl/apply-plan.ts';
import type { PlanReport } from '../../../client/sdk/index.ts';
import { shardPlan } from '../../support/shard-plan.ts';

describe('helsctl plan --apply', () => {
  it('asks for what is given and nothing else', () => {
    expect(replanOptions({})).toEqual({ workload: {} });
    const sizes = { sequences: '9', context: '64', prefillChunk: '8192' };
    expect(replanOptions({ policy: 'equal', ...sizes })).toEqual({
      policy: 'equal',
      workload: { sequences: 9, contextTokens: 64, prefillChunk: 8192 },
    });
    expect(replanOptions({ ranks: 'a=3/1' }).ranks).toEqual([
      { workerId: 'a', headGroups: 3, ffnWeight: 1 },
    ]);
  });

  it.each([
    [{ policy: 'best' }, "--policy: 'best' is not one of hels"],
    [{ policy: 'hels', ranks: 'a=3/1' }, 'give one of the two'],
    [{ sequences: '0' }, '--sequences'],
    [{ sequences: '1025' }, "--sequences: '1025' is not a whole number from 1 to 1024"],
    [{ prefillChunk: '8193' }, "--prefill-chunk: '8193' is not a whole number from 1 to 8192"],
    [{ ranks: 'a=3' }, '--ranks'],
  ])('refuses %o', (options, message) => {
    expect(() => replanOptions(options)).toThrow(message);
  });

  it('shows what each worker has and gets, the gain and the pause', () => {
    const current = shardPlan([
      { workerId: 'a', headGroups: [0, 5] },
      { workerId: 'b', headGroups: [5, 8] },
    ]);
    const plan = shardPlan([
      { workerId: 'a', headGroups: [0, 2] },
      { workerId: 'c', headGroups: [2, 8] },
    ]);
    const predicted = { seconds: 1.5, loadSeconds: 1, kvSeconds: 0.5, replaySeconds: 0 };
    const bytes = { weightBytes: 2048, kvBytes: 4096 };
    const proposal = {
      type: 'proposal' as const,
      current,
      plan,
      equal: false,
      currentDecodeSeconds: 0.02,
      plannedDecodeSeconds: 0.015,
      predicted: { ...predicted, ...bytes },
    };
    const text = formatProposal(proposal);
    expect(text).toMatch(/^a +5 -> 2/m);
    expect(text).toMatch(/^b +3 -> 0/m);
    expect(text).toMatch(/^c +0 -> 6/m);
    expect(text).toContain('15.00 ms instead of 20.00 ms, 25 % less; pause of 1.50 s');
    expect(formatProposal({ ...proposal, plannedDecodeSeconds: 0.03 })).toContain(
      '30.00 ms instead of 20.00 ms, 50 % more; pause',
    );
    expect(
      formatProposal({ ...proposal, currentDecodeSeconds: Number.POSITIVE_INFINITY }),
    ).toContain('decode step without b: 15.00 ms; pause');
    expect(formatProposal({ ...proposal, plan: current, equal: true })).toContain(
      'the plan is as it would be made now',
    );
  });
});

describe('what became of the requests', () => {
  it.each([
    ['migrated', 0, '1.00 MiB of KV moved; '],
    ['migrated', 7, '1.00 MiB of KV moved, 7 tokens computed again; '],
    ['replayed', 7, 'requests went on, 7 tokens computed again; '],
    ['replayed', 0, 'requests went on, 0 tokens computed again; '],
  ])('tells of KV that is %s with %i tokens to compute again', (kv, replayedTokens, text) => {
    const counts = { weightBytesLoaded: 0, weightBytesAdopted: 0, pauseSeconds: 0, sequences: 2 };
    const replan = { ...counts, kv, replayedTokens, kvBytesMoved: 2 ** 20, predicted: null };
    expect(
      formatMove(
        { plan: null } as PlanReport,
        replan as unknown as Parameters<typeof formatMove>[1],
      ),
    ).toContain(text);
  });
});
