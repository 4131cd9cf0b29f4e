/** Proposals, predictions and the controller's own looking, over plans that are really made. */
import { describe, expect, it } from 'vitest';
import type { DeploymentRequest } from '../../../controller/cluster/group.ts';
import { initialGroup } from '../../../controller/cluster/group.ts';
import { AutoReplan, plansAnew } from '../../../controller/deployment/auto-replan.ts';
import type { LoadedGroup } from '../../../controller/deployment/deployment-run.ts';
import { makePlan, type PlanRequest } from '../../../controller/deployment/make-plan.ts';
import { predictPause } from '../../../controller/deployment/pause-prediction.ts';
import { ReplanLog } from '../../../controller/deployment/replan-log.ts';
import {
  type Proposal,
  proposeReplan,
  type ReplanWish,
  wishedRequest,
} from '../../../controller/deployment/replan-proposal.ts';
import { footprintOf } from '../../../controller/planner/problem.ts';
import { type ProfiledDevice, planModel } from '../../../controller/profiler/plan-input.ts';
import type { StepLoad } from '../../../proto/domain/step-load.ts';
import type { Replan__Output } from '../../../proto/gen/hels/v1/Replan.ts';
import { smallModel } from '../profiler/models.ts';

const ids = ['a', 'b'];
const line = { perHeadGroup: 1e-3, perFfnColumn: 1e-5, perVocabRow: 1e-7 };
const device = (id: string): ProfiledDevice => ({
  id,
  memoryBytes: 2 ** 26,
  reservedBytes: 0,
  decode: [line],
  prefill: [{ ...line, perTokenHeadGroup: 1e-5 }],
  link: { constant: 1e-5, perToken: 1e-6 },
});
const request: DeploymentRequest = {
  modelPath: '/m',
  modelId: 'm',
  policy: 'hels',
  numerics: 'exact',
  quantization: 'auto',
  workersMin: 1,
  workload: null,
  ranks: [],
};
const planRequest: PlanRequest = {
  epoch: 1,
  modelId: 'm',
  modelPath: '/m',
  modelDigest: 'd',
  model: smallModel,
  devices: ids.map(device),
  workload: { sequences: 8, contextTokens: 256, prefillChunk: 256, outputTokens: 128 },
  policy: 'hels',
  manual: [],
  numerics: 'exact',
  stepTokensMax: 512,
  sequencesMax: 64,
  kvBlockTokens: 16,
  parks: true,
};
const candidates = ids.map((id) => ({ id, incarnation: `${id}1` }));
const loaded = {
  ...makePlan(planRequest, () => 0),
  planRequest,
  candidates,
  workers: candidates,
  profiles: new Map(ids.map((id) => [id, { copyBytesPerSecond: 1e9 }])),
  loadRates: new Map([
    ['a', 1e6],
    ['b', 2e6],
  ]),
  connectSeconds: 0.5,
} as unknown as LoadedGroup;

const nothing: ReplanWish = { policy: '', workload: null, ranks: [] };
const alive = new Map([
  ['a', 'a1'],
  ['b', 'b1'],
]);
/** Device a takes so many times what its lines say. */
const slower = (times: number) => (devices: readonly ProfiledDevice[]) =>
  devices.map((one) =>
    one.id === 'a'
      ? { ...one, decode: [{ perHeadGroup: 1e-3 * times, perFfnColumn: 1e-5 * times }] }
      : { ...one },
  );

function propose(wish: Partial<ReplanWish>, changes: object = {}): Proposal {
  const asIs = (devices: readonly ProfiledDevice[]) => [...devices];
  const proposing = { loaded, request, alive, refine: asIs, nowMs: () => 0 };
  return proposeReplan({ ...proposing, wish: { ...nothing, ...wish }, ...changes });
}

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

  it('moves work from a device that became slow', () => {
    const proposal = propose({}, { refine: slower(3) });
    expect(proposal.equal).toBe(false);
    expect(Object.fromEntries(headsOf(proposal))['a'] ?? 0).toBeLessThan(2);
    expect(proposal.plannedSeconds).toBeLessThan(proposal.currentSeconds);
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
    const restarted = new Map([...alive, ['b', 'b2']]);
    expect(() => propose({ ranks }, { alive: restarted })).toThrow("worker 'b' is not registered");
    const alone = propose({}, { alive: restarted });
    expect(headsOf(alone)).toEqual([['a', 4]]);
    // The split as it is cannot go on without b.
    expect(alone.currentSeconds).toBe(Number.POSITIVE_INFINITY);
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
    const wanted = wishedRequest(before, { ...nothing, workload: { ...sizes, sequences: 9 } });
    expect(wanted).toEqual({ ...before, workload: { ...before.workload, sequences: 9 } });
    const ranks = [{ workerId: 'a', headGroups: 4, ffnWeight: 1 }];
    expect(wishedRequest({ ...request, ranks }, { ...nothing, policy: 'equal' })).toMatchObject({
      policy: 'equal',
      ranks: [],
    });
    expect(() => propose({ policy: 'equal', ranks })).toThrow('give one of the two');
  });
});

describe('the predicted pause', () => {
  const rank = (workerId: string, headGroups: number) => ({ workerId, headGroups, ffnWeight: 1 });
  const to = propose({ ranks: [rank('a', 3), rank('b', 1)] }).made;
  const question = { from: loaded, to, computed: [100, 60], blocksUsed: 11, ratio: 1 };
  const { perHeadGroup, kvPerTokenHeadGroup } = footprintOf(planModel(smallModel));

  it('is loading on the slowest worker, the collective, and KV over the link', () => {
    const pause = predictPause({ ...question, migrates: true });
    // Two head groups each before; the columns stay: 3 load anew on a, 1 on b.
    expect(pause.weightBytes).toBe(4 * perHeadGroup);
    expect(pause.loadSeconds).toBeCloseTo((3 * perHeadGroup) / 1e6, 9);
    expect(pause.kvBytes).toBe(11 * 16 * kvPerTokenHeadGroup);
    expect(pause.replaySeconds).toBe(0);
    expect(pause.kvSeconds).toBeGreaterThan(0);
    expect(pause.seconds).toBeCloseTo(pause.loadSeconds + 0.5 + pause.kvSeconds, 9);
  });

  it('is the first step of computing again instead, and tells what all of them take', () => {
    const few = predictPause({ ...question, migrates: false });
    expect(few.kvBytes).toBe(0);
    expect(few.replaySeconds).toBeCloseTo(few.kvSeconds, 9);
    const many = predictPause({ ...question, migrates: false, computed: Array(20).fill(256) });
    expect(many.replaySeconds).toBeGreaterThan(5 * many.kvSeconds);
    expect(predictPause({ ...question, migrates: false, computed: [] }).kvSeconds).toBe(0);
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
    log.failed('no way back');
    expect(told).toEqual(['replan', 'replan', 'replan-undone', 'replan-failed']);
    expect(log.count).toBe(3);
  });
});

describe('the controller that looks by itself', () => {
  const light: StepLoad = {
    decodeTokens: 8,
    decodeContextTokens: 2048,
    prefillTokens: 0,
    prefillContextTokens: 0,
  };

  function looking(times: number, deployed: Partial<DeploymentRequest> = {}) {
    let nowMs = 0;
    let steps = 0;
    const applied: number[] = [];
    const wishes: ReplanWish[] = [];
    const group = {
      ...initialGroup(1),
      phase: 'ready' as 'ready' | 'deploying',
      request: { ...request, ...deployed },
    };
    const auto = new AutoReplan({
      coordinator: { group, serving: { loaded } },
      replanner: {
        propose: (wish) => {
          wishes.push(wish);
          return propose(wish, { refine: slower(times) });
        },
        pauseOf: () => ({ seconds: 3, replaySeconds: 1 }) as never,
        apply: () => applied.push(nowMs) as never,
      },
      served: () => ({ load: light, steps }),
      lastWasUndone: () => false,
      clock: { nowMs: () => nowMs, unixMs: () => 0 },
      log: { info: () => undefined } as never,
    });
    const run = (seconds: number, stepsEach = 1) => {
      for (let tick = 0; tick < 4 * seconds; tick += 1) {
        nowMs += 250;
        steps += stepsEach;
        auto.tick();
      }
    };
    return { run, applied, wishes, group };
  }

  it('begins a re-plan at the load that is served when a device is slow for long', () => {
    const { run, applied, wishes } = looking(3);
    run(149);
    expect(applied).toEqual([]);
    run(20);
    expect(applied).toHaveLength(1);
    expect(wishes[0]?.workload).toMatchObject({ sequences: 8, contextTokens: 256 });
  });

  it.each([
    ['nothing is better', 1, {}, 1],
    ['it is switched off', 3, { autoReplan: false }, 1],
    ['the split is by hand', 3, { ranks: [{ workerId: 'a', headGroups: 4, ffnWeight: 1 }] }, 1],
    ['a person chose a policy to look at', 3, { policy: 'equal' }, 1],
    ['nothing is served', 3, {}, 0],
  ] as const)('does nothing when %s', (_, times, deployed, stepsEach) => {
    const { run, applied } = looking(times, deployed as Partial<DeploymentRequest>);
    run(600, stepsEach);
    expect(applied).toEqual([]);
  });

  it('does nothing while another plan comes', () => {
    const { run, applied, group } = looking(3);
    group.phase = 'deploying';
    run(600);
    expect(applied).toEqual([]);
  });

  it('is for the policies that choose', () => {
    expect(plansAnew(request)).toBe(true);
    expect(plansAnew({ ...request, policy: '' })).toBe(true);
    expect(plansAnew({ ...request, policy: 'memory' })).toBe(false);
  });
});
