import { describe, expect, it } from 'vitest';
import { explain } from '../../../controller/planner/explain.ts';
import { largestLoans, planLoans } from '../../../controller/planner/kv-loans.ts';
import { plan } from '../../../controller/planner/plan.ts';
import { planFromCounts } from '../../../controller/planner/plan-from-counts.ts';
import { remoteKvOf } from '../../../controller/planner/remote-workload.ts';
import type { PlanInput } from '../../../proto/domain/plan.ts';
import { device, smallInput } from './inputs.ts';

const blockBytes = 10;
const rank = (roomBytes: number, headGroups: number, contextSeconds = 1) => ({
  roomBytes,
  headGroups,
  contextSeconds,
});

describe('loans', () => {
  it('are none while every rank has room for its own', () => {
    expect(planLoans([rank(100, 1), rank(200, 2)], blockBytes, 10)).toMatchObject({
      ownBlocks: [10, 10],
      loans: [],
      storedBytes: [100, 200],
    });
  });

  it('are the highest addresses of the short rank', () => {
    const found = planLoans([rank(109, 1), rank(600, 2)], blockBytes, 20);
    expect(found).toMatchObject({
      ownBlocks: [10, 20],
      loans: [{ owner: 0, holder: 1, blocks: { begin: 10, end: 20 } }],
      storedBytes: [100, 500],
    });
    // 400 of its own and 100 held.
    expect(planLoans([rank(109, 1), rank(500, 2)], blockBytes, 20)).not.toBeNull();
    expect(planLoans([rank(109, 1), rank(499, 2)], blockBytes, 20)).toBeNull();
  });

  it('go to the rank that attends quickest first, and on to the next when it is full', () => {
    const found = planLoans([rank(100, 1), rank(275, 1, 3), rank(260, 1, 2)], blockBytes, 20);
    expect(found?.loans).toEqual([
      { owner: 0, holder: 2, blocks: { begin: 10, end: 16 } },
      { owner: 0, holder: 1, blocks: { begin: 16, end: 20 } },
    ]);
  });

  it('leave what is too small for one owner to the blocks of the next', () => {
    // Of 10 blocks the first two keep two; 50 bytes hold blocks of one head group, not of eight.
    const ranks = [rank(200, 8), rank(25, 1), rank(50, 0, 1), rank(670, 0, 2)];
    const found = planLoans(ranks, blockBytes, 10);
    expect(found?.loans.filter(({ owner }) => owner === 1)).toEqual([
      { owner: 1, holder: 2, blocks: { begin: 2, end: 7 } },
      { owner: 1, holder: 3, blocks: { begin: 7, end: 10 } },
    ]);
  });

  it('may lie on a rank without heads, and of a rank without room', () => {
    const found = planLoans([rank(9, 1), rank(100, 0)], blockBytes, 10);
    expect(found?.loans).toEqual([{ owner: 0, holder: 1, blocks: { begin: 0, end: 10 } }]);
    expect(planLoans([rank(9, 1), rank(99, 0)], blockBytes, 10)).toBeNull();
  });

  it('are as many as all rooms together hold', () => {
    const ranks = [rank(100, 1), rank(1_000, 1)];
    expect(largestLoans(ranks, blockBytes)).toMatchObject({ kvBlocks: 55, ownBlocks: [10, 55] });
    expect(planLoans(ranks, blockBytes, 56)).toBeNull();
    const few = largestLoans(ranks, blockBytes, 100, ({ kvBlocks }) => kvBlocks <= 25);
    expect(few).toMatchObject({ kvBlocks: 25, ownBlocks: [10, 25] });
    expect(largestLoans(ranks, blockBytes, 7)).toMatchObject({ kvBlocks: 7, loans: [] });
    expect(largestLoans([rank(1, 1)], blockBytes)).toBeNull();
  });
});

describe('a plan with KV on other ranks', () => {
  const line = { perHeadGroup: 1e-3, perFfnColumn: 1e-5, perContextHeadGroup: 1e-6 };
  const link = { constant: 5e-4, perToken: 64e-6 };
  /** Half of the model each: 160 + 2 * 512 + 8 * 96 + 5 * 16 = 2,032 bytes of weights; 64 tokens of two heads take 4,096 bytes. */
  const weights = 2_032;
  const blocks = (count: number) => weights + count * 4_096;
  const split = { headGroups: [2, 2], ffnWeights: [1, 1] };

  function inputOf(
    left: number,
    right: number,
    sequences: number,
    allowRemoteKv = true,
  ): PlanInput {
    const workload = { sequences, contextTokens: 64, prefillChunk: 3, outputTokens: 5 };
    return smallInput(
      [
        device('left', line, { memoryBytes: left, link }),
        device('right', line, { memoryBytes: right, link }),
      ],
      { workload: { ...workload, allowRemoteKv }, objective: 'lockstep' },
    );
  }

  const explainedLoans = (input: PlanInput) =>
    explain(
      input,
      plan(input, () => 0),
    ).loans;

  it('holds what the rooms hold together, and tells where', () => {
    const made = planFromCounts(inputOf(blocks(6), blocks(20), 8), split);
    expect(made.feasible).toBe(true);
    // 26 blocks are 13 of all heads: 13 and 7 on the right.
    expect(made.predicted.kvTokensTotal).toBe(832);
    expect(made.kvLoans).toEqual([{ owner: 'left', holder: 'right', tokens: [384, 832] }]);
    expect(made.ranks.map(({ kvBytes, kvTokens }) => [kvBytes, kvTokens])).toEqual([
      [6 * 4_096, 384],
      [20 * 4_096, 832],
    ]);
    expect(made.ranks.map(({ kvShare }) => kvShare)).toEqual([6 / 26, 20 / 26]);
    const without = planFromCounts(inputOf(blocks(6), blocks(20), 8, false), split);
    expect(without).toMatchObject({ feasible: false, predicted: { kvTokensTotal: 384 } });
    expect(without.kvLoans).toBeUndefined();
    expect(planFromCounts(inputOf(blocks(6), blocks(20), 14), split).reason).toMatch(
      /^kv: the devices in use have .* in sum beside the weights for .* \(896 resident tokens\)/,
    );
  });

  it("counts the holder's attention and the bytes on the link when the load uses lent addresses", () => {
    const input = inputOf(blocks(6), blocks(20), 8);
    const made = planFromCounts(input, split);
    // 2 of 8 blocks lie on the right: it attends to 2 * 512 * (1 + 2 / 8) positions, the left to 2 * 512 * 6 / 8.
    const attention = 1e-6 * 512 * 2;
    const columns = 8 * 1e-5;
    const sums = 5e-4 + 8 * 64e-6;
    // Two exchanges for two layers cost 4 of the step's 5 beginnings; bytes by what a token's sums are: 2 * 2 * 8 * 8.
    const bytes = 2 * 2 * (8 * 4 * 4 + 2 * (4 + 2) * 4);
    const remote = (4 / 5) * 5e-4 + (bytes * 64e-6) / (2 * 2 * 8 * 8);
    const [left = 0, right = 0] = made.predicted.perRankSeconds;
    expect(right).toBeCloseTo(2e-3 + attention * 1.25 + columns + sums + remote, 9);
    expect(left).toBeCloseTo(2e-3 + attention * 0.75 + columns + sums + remote, 9);
    const few = planFromCounts(inputOf(blocks(6), blocks(20), 2), split);
    const without = planFromCounts(inputOf(blocks(6), blocks(20), 2, false), split);
    expect(few.predicted.perRankSeconds).toEqual(without.predicted.perRankSeconds);
  });

  it('between GPUs counts rows in the type of the cache and a part for each of their chunks', () => {
    const { workload, ...input } = inputOf(blocks(6), blocks(20), 8);
    const long = { ...workload, contextTokens: 600 };
    const bytesIn = (loanBlockTokens: number) => {
      const { queryBytes = 0, answerBytes = 0 } =
        remoteKvOf({ ...input, workload: long, loanBlockTokens }) ?? {};
      return [queryBytes, answerBytes];
    };
    // Two layers, eight sequences, a query head of four dimensions for each group; the cache has two bytes for each.
    const rows = 2 * 8;
    const part = (4 + 2) * 4;
    expect(bytesIn(64)).toEqual([rows * 4 * 4, rows * 10 * part]);
    expect(bytesIn(256)).toEqual([rows * 4 * 2, rows * 3 * part]);
    expect(bytesIn(512)).toEqual([rows * 4 * 2, rows * 4 * part]);
  });

  it('prices exchanges by a link of their own, where there is one', () => {
    const input = inputOf(blocks(6), blocks(20), 8);
    const exchangeLink = { constant: 2 * link.constant, perToken: 2 * link.perToken };
    const devices = input.devices.map((one) => ({ ...one, exchangeLink }));
    const without = inputOf(blocks(6), blocks(20), 8, false);
    const secondsOf = (one: PlanInput) => planFromCounts(one, split).predicted.decodeSeconds;
    // Where nothing is lent it says nothing.
    expect(secondsOf({ ...without, devices })).toBe(secondsOf(without));
    const [asSums, own] = [remoteKvOf(input), remoteKvOf({ ...input, devices })];
    expect(own?.secondsPerByte).toEqual(asSums?.secondsPerByte.map((one) => 2 * one));
    expect(own?.exchangeSeconds).toEqual(asSums?.exchangeSeconds.map((one) => 2 * one));
    expect(secondsOf({ ...input, devices })).toBeGreaterThan(secondsOf(input));
  });

  it('is explained: from which batch on, and whether it pays', () => {
    const input = { ...inputOf(blocks(6), blocks(20), 8), policy: 'equal' as const };
    const made = plan(input, () => 0);
    expect(made.feasible).toBe(true);
    const { loans, binding } = explain(input, made);
    expect(binding.text).toContain(`KV for ${made.predicted.kvTokensTotal} tokens`);
    expect([loans?.withLoans?.sequences, loans?.withoutLoans?.sequences]).toEqual([13, 6]);
    expect(loans?.text).toMatch(/^from 7 sequences of 64 tokens on KV lies on other ranks/);
    const plain = inputOf(blocks(6), blocks(20), 2, false);
    const devices = plain.devices.map((one) => ({ ...one, link: { constant: 4e-4, perToken: 0 } }));
    // Beginning the exchanges takes more than the seventh sequence gives.
    const quick = { ...plain, devices, policy: 'equal' as const };
    const asked = explainedLoans({
      ...quick,
      workload: { ...quick.workload, allowRemoteKv: true },
    });
    expect(asked?.paysFrom?.sequences).toBe(8);
    expect(asked?.text).toMatch(/^from 7 sequences .*, and pays from 8 on \(8 sequences at /);
    expect(explainedLoans(quick)?.text).toBe(
      `with allowRemoteKv, KV on other ranks would pay from 8 sequences on: ${asked?.text}`,
    );
    const alike = inputOf(blocks(20), blocks(20), 2, false);
    expect(explainedLoans(alike)).toBeUndefined();
    expect(explainedLoans({ ...quick, objective: 'step' })).toBeUndefined();
  });

  it('is not said to pay where the link takes what the batch gives', () => {
    const slow = { constant: 0.5, perToken: 64e-6 };
    const input = { ...inputOf(blocks(6), blocks(10), 8), policy: 'equal' as const };
    const devices = input.devices.map((one) => ({ ...one, link: slow }));
    const loans = explainedLoans({ ...input, devices });
    expect(loans?.paysFrom).toBeNull();
    expect(loans?.text).toMatch(/holds more sequences but gives no more tokens a second/);
  });

  it('counts whole blocks, as the addresses of a sequence are', () => {
    // 65 tokens take two blocks: 6 sequences 12 of them.
    const of65 = (sequences: number) => {
      const input = inputOf(blocks(6), blocks(20), sequences);
      const workload = { ...input.workload, contextTokens: 65 };
      return planFromCounts({ ...input, workload }, split);
    };
    expect(of65(6)).toMatchObject({ feasible: true });
    // 7 sequences of 65 tokens are 455, which 13 blocks would hold.
    expect(of65(7)).toMatchObject({ feasible: false, predicted: { kvTokensTotal: 832 } });
  });

  it('lends beyond what the planned load needs where that costs its step nothing', () => {
    const few = planFromCounts(inputOf(blocks(6), blocks(20), 3), split);
    expect(few.kvLoans).toEqual([{ owner: 'left', holder: 'right', tokens: [384, 832] }]);
    const without = planFromCounts(inputOf(blocks(6), blocks(20), 3, false), split);
    expect(few.predicted.decodeSeconds).toBe(without.predicted.decodeSeconds);
  });

  it('is for ranks in lockstep', () => {
    const { objective: _, ...input } = inputOf(blocks(6), blocks(20), 2);
    expect(() => plan(input, () => 0)).toThrow(
      expect.objectContaining({
        code: 'config-invalid',
        message: expect.stringMatching(
          /workload.allowRemoteKv is true; it is for objective 'lockstep'/,
        ),
      }),
    );
  });
});
