/** Proposals and predictions, over plans that are really made. */
import { describe, expect, it } from 'vitest';
import { predictPause } from '../../../controller/deployment/pause-prediction.ts';
import { ReplanLog } from '../../../controller/deployment/replan-log.ts';
import { type Proposal, wishedRequest } from '../../../controller/deployment/replan-proposal.ts';
import { footprintOf } from '../../../controller/planner/problem.ts';
import { type ProfiledDevice, planModel } from '../../../controller/profiler/plan-input.ts';
import type { Replan__Output } from '../../../proto/gen/hels/v1/Replan.ts';
import { smallModel } from '../profiler/models.ts';
import {
  available,
  device,
  ids,
  loaded,
  nothing,
  propose,
  request,
  slower,
} from './replan-setting.ts';

const headsOf = ({ made }: Proposal) =>
  made.shardPlan.ranks.map(({ workerId, headGroups }) => [
    workerId,
    (headGroups?.end ?? 0) - (headGroups?.begin ?? 0),
  ]);

describe('a proposal', () => {
  it('is the current plan when nothing has changed', () => {
    const proposal = propose({});
    expect(proposal.equal).toBe(true);
    expect(proposal.plannedSeconds).toBeCloseTo(proposal.currentSeconds, 12);
    expect(proposal.made.shardPlan.epoch).toBe(2);
  });

  it('is another plan when slots get another length', () => {
    const sizes = { sequences: 0, contextTokens: 0, prefillChunk: 0, outputTokens: 0 };
    // As many KV tokens: the same places.
    const workload = { ...sizes, sequences: 16, contextTokens: 128 };
    const places = ({ made }: Proposal) => [made.shardPlan.ranks, made.shardPlan.kvBlocks];
    const split = propose({ workload });
    expect(places(split)).toEqual(places(propose({})));
    expect(split.equal).toBe(true);
    expect(split.request.workload).toMatchObject(workload);
    const slots = { request: { ...request, kvPolicy: 'slots' as const } };
    expect(propose({ workload }, slots).equal).toBe(false);
    expect(propose({ workload: { ...sizes, contextTokens: 256 } }, slots).equal).toBe(true);
    expect(propose({}, slots).equal).toBe(true);
  });

  it('moves work from a device that became slow', () => {
    const proposal = propose({}, { refine: slower(3) });
    expect(proposal.equal).toBe(false);
    expect(Object.fromEntries(headsOf(proposal))['a'] ?? 0).toBeLessThan(2);
    expect(proposal.plannedSeconds).toBeLessThan(proposal.currentSeconds);
  });

  it('has a worker that a trial has left out only where a split by hand names it', () => {
    const c = { ...available[0], id: 'c', incarnation: 'c1' } as (typeof available)[number];
    const three = [...available, c];
    const ranks = [
      { workerId: 'a', headGroups: 3, ffnWeight: 1 },
      { workerId: 'c', headGroups: 1, ffnWeight: 1 },
    ];
    const candidates = { ...loaded, candidates: three, leftOut: [device('c')] };
    const changes = { loaded: candidates, available: three };
    expect(propose({}, changes).fitted.map(({ id }) => id)).toEqual(['a', 'b']);
    const proposal = propose({ ranks }, changes);
    expect(headsOf(proposal)).toEqual([
      ['a', 3],
      ['c', 1],
    ]);
    expect(proposal.workers).toEqual([available[0], c]);
    // Of another life it was never measured with these.
    const restarted = [...available, { ...c, incarnation: 'c2' }];
    expect(() => propose({ ranks }, { ...changes, available: restarted })).toThrow(
      "ranks: worker 'c' takes part from the next deployment on",
    );
  });

  it('is what is asked for, of the workers that answer', () => {
    const ranks = [
      { workerId: 'a', headGroups: 3, ffnWeight: 1 },
      { workerId: 'b', headGroups: 1, ffnWeight: 1 },
    ];
    const proposal = propose({ ranks });
    expect(headsOf(proposal)).toEqual([
      ['a', 3],
      ['b', 1],
    ]);
    expect(proposal.workers.map(({ id }) => id)).toEqual(ids);
    const restarted = available.map((one) =>
      one.id === 'b' ? { ...one, incarnation: 'b2' } : one,
    );
    const gone = available.filter(({ id }) => id !== 'b');
    expect(() => propose({ ranks }, { available: gone })).toThrow("worker 'b' is not registered");
    const alone = propose({}, { available: restarted });
    expect(headsOf(alone)).toEqual([['a', 4]]);
    // The split as it is cannot go on without b.
    expect(alone.currentSeconds).toBe(Number.POSITIVE_INFINITY);
  });

  it('reaches each worker as it is reached now', () => {
    // Both were lost for a moment: the channels of the deployment are closed.
    const back = available.map((one) => ({ ...one, address: 'another' }));
    const proposal = propose({}, { available: back });
    expect(proposal.workers.every((worker) => back.includes(worker))).toBe(true);
    expect(proposal.candidates).toEqual(back);
    const [a, b] = back;
    const alone = propose({}, { available: [a] });
    expect(alone.workers).toEqual([a]);
    // It may come back.
    expect(alone.candidates).toEqual([a, { ...b, address: undefined }]);
  });

  it('refuses what fits nowhere', () => {
    const workload = { sequences: 64, contextTokens: 512, prefillChunk: 0, outputTokens: 0 };
    const small = (devices: readonly ProfiledDevice[]) =>
      devices.map((one) => ({ ...one, memoryBytes: 2 ** 24 }));
    expect(() => propose({ workload }, { refine: small })).toThrow(
      expect.objectContaining({ code: 'plan-infeasible' }),
    );
  });

  it('keeps of the deployment what is not asked for', () => {
    const sizes = { sequences: 4, contextTokens: 0, prefillChunk: 0, outputTokens: 0 };
    const before = { ...request, workload: { ...sizes, contextTokens: 100 } };
    const lending = { ...before, workload: { ...sizes, allowRemoteKv: true } };
    const workload = { ...sizes, allowRemoteKv: false };
    expect(wishedRequest(lending, { ...nothing, workload }).workload).toEqual(workload);
    expect(wishedRequest(lending, { ...nothing, workload: sizes }).workload).toEqual(
      lending.workload,
    );
    const wanted = wishedRequest(before, { ...nothing, workload: { ...sizes, sequences: 9 } });
    expect(wanted).toEqual({ ...before, workload: { ...before.workload, sequences: 9 } });
    const ranks = [{ workerId: 'a', headGroups: 4, ffnWeight: 1 }];
    expect(wishedRequest({ ...request, ranks }, { ...nothing, policy: 'equal' })).toMatchObject({
      policy: 'equal',
      ranks: [],
    });
  });
});

describe('the log of re-plans', () => {
  it('knows of trouble until a plan comes to serve or another deployment does', () => {
    const observer = { replanned: () => undefined, replanFailed: () => undefined };
    const log = new ReplanLog(() => undefined, observer);
    const ended = (epoch: number, outcome: string) =>
      log.ended({ epoch, outcome, pauseSeconds: 1 } as Replan__Output);
    expect(log.trouble).toBeNull();
    ended(3, 'undone');
    expect(log.trouble).toBe(3);
    ended(4, 'applied');
    expect(log.trouble).toBeNull();
    log.failed('no way back', 6);
    expect(log.trouble).toBe(6);
    log.forgetTrouble();
    expect(log.trouble).toBeNull();
    // What people see of the last one stays.
    expect(log.last?.epoch).toBe(4);
  });
});

describe('the predicted pause', () => {
  const rank = (workerId: string, headGroups: number) => ({ workerId, headGroups, ffnWeight: 1 });
  const to = propose({ ranks: [rank('a', 3), rank('b', 1)] }).made;
  const of = (computed: readonly number[], kept: readonly number[] = []) =>
    computed.map((positions, index) => ({ computed: positions, kept: kept[index] ?? 0 }));
  const nothing = { sequences: of([100, 60]), blocks: [], parked: [] };
  const question = { from: loaded, to, kept: nothing, ratio: 1 };
  const { perHeadGroup, kvPerTokenHeadGroup } = footprintOf(planModel(smallModel));

  it('is loading on the slowest worker, the collective, and KV over the link', () => {
    const all = {
      sequences: of([100, 60], [100, 60]),
      blocks: [...Array(9).keys()],
      parked: [
        { from: 70, to: 80 },
        { from: 71, to: 81 },
      ],
    };
    const pause = predictPause({ ...question, kept: all });
    // Two head groups each before; the columns stay: 3 load anew on a, 1 on b.
    expect(pause.weightBytes).toBe(4 * perHeadGroup);
    expect(pause.loadSeconds).toBeCloseTo((3 * perHeadGroup) / 1e6, 9);
    expect(pause.kvBytes).toBe(11 * 16 * kvPerTokenHeadGroup);
    expect(pause.replaySeconds).toBe(0);
    expect(pause.kvSeconds).toBeGreaterThan(0);
    expect(pause.seconds).toBeCloseTo(pause.loadSeconds + 0.5 + pause.kvSeconds, 9);
  });

  it('is the first step of computing again instead, and tells what all of them take', () => {
    const few = predictPause(question);
    expect(few.kvBytes).toBe(0);
    expect(few.replaySeconds).toBeCloseTo(few.kvSeconds, 9);
    const long = { sequences: of(Array(20).fill(256)), blocks: [], parked: [] };
    const many = predictPause({ ...question, kept: long });
    expect(many.replaySeconds).toBeGreaterThan(5 * many.kvSeconds);
    const none = { sequences: [], blocks: [], parked: [] };
    expect(predictPause({ ...question, kept: none }).kvSeconds).toBe(0);
  });

  it('counts of each request what moves and what is computed again behind it', () => {
    const part = { sequences: of([100, 60], [100, 16]), blocks: [...Array(8).keys()], parked: [] };
    const pause = predictPause({ ...question, kept: part });
    expect(pause.kvBytes).toBe(8 * 16 * kvPerTokenHeadGroup);
    const again = predictPause({ ...question, kept: { ...nothing, sequences: of([60]) } });
    expect(pause.replaySeconds).toBeGreaterThan(0);
    expect(pause.replaySeconds).toBeLessThan(again.replaySeconds);
    expect(pause.kvSeconds).toBeGreaterThan(pause.replaySeconds);
  });

  it('learns from the pauses that were', () => {
    const told: string[] = [];
    const log = new ReplanLog((kind) => told.push(kind), {
      replanned: () => undefined,
      replanFailed: () => undefined,
    });
    const replan = (predicted: number, pauseSeconds: number, outcome = 'applied') =>
      log.ended({ predicted: { seconds: predicted }, pauseSeconds, outcome } as Replan__Output);
    expect(log.pauseRatio).toBe(1);
    replan(1, 2);
    expect(log.pauseRatio).toBeCloseTo(2, 9);
    // The next prediction has the ratio in it, and comes true.
    replan(2, 2);
    expect(log.pauseRatio).toBeCloseTo(2, 9);
    replan(2, 60, 'undone');
    expect(log.pauseRatio).toBeCloseTo(2, 9);
    log.failed('no way back', 7);
    expect(told).toEqual(['replan', 'replan', 'replan-undone', 'replan-failed']);
    expect(log.count).toBe(3);
  });
});
