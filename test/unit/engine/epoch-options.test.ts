import { expect, test } from 'vitest';
import type { KvPathTracker } from '../../../controller/deployment/kv-path-tracker.ts';
import { epochOptionsOf } from '../../../controller/engine/epoch-options.ts';
import { kvBytesPerToken } from '../../../proto/domain/model-spec.ts';
import { loaded, request } from '../deployment/replan-setting.ts';

const paths = { ratioOf: () => 1 } as unknown as KvPathTracker;
const workers = loaded.workers.map((worker) => ({ ...worker, client: { stub: null } }));
/** As after a re-plan for the load of a moment. */
const atMoment = {
  ...loaded,
  workers,
  input: { ...loaded.input, workload: { ...loaded.input.workload, contextTokens: 17 } },
} as unknown as typeof loaded;
const sizes = { sequences: 0, contextTokens: 0, prefillChunk: 0, outputTokens: 0 };

test('several times as many requests may wait as run at once', () => {
  const { limits } = epochOptionsOf(atMoment, request, paths);
  expect([limits.sequencesMax, limits.waitingMax]).toEqual([64, 512]);
  const shardPlan = { ...loaded.shardPlan, sequencesMax: 1024, stepTokensMax: 2048 };
  const wide = epochOptionsOf({ ...atMoment, shardPlan }, request, paths);
  // The warm-up of a batch asks for all of it at once.
  expect(wide.limits.waitingMax).toBeGreaterThan(1024);
});

test.each([
  ['slots', 0, 256],
  ['slots', 100, 100],
  ['slots', 1_000_000, loaded.planRequest.model.maxPositions],
  ['reserve', 100, 1],
  ['replay', 100, undefined],
  ['evict', 100, undefined],
] as const)(
  'KV policy %s, context %i: %s tokens are reserved, whatever the load was when the plan was made',
  (kvPolicy, contextTokens, reserveTokens) => {
    const deployment = { ...request, kvPolicy, workload: { ...sizes, contextTokens } };
    const { limits, ranks } = epochOptionsOf(atMoment, deployment, paths);
    expect(limits.reserveTokens).toBe(reserveTokens);
    expect(limits.replaysWhole).toBe(kvPolicy === 'replay' ? true : undefined);
    expect(ranks).toHaveLength(2);
  },
);

test('addresses that lie on every own device are those below the lowest that is on loan', () => {
  const localOf = (shardPlan: object) => {
    const group = { ...atMoment, shardPlan: { ...atMoment.shardPlan, ...shardPlan } };
    return epochOptionsOf(group, { ...request, workload: null }, paths).limits.localBlocks;
  };
  const { kvBlocks, ranks } = atMoment.shardPlan;
  expect(localOf({})).toBe(kvBlocks);
  const kept = ranks.map((rank, index) => ({
    ...rank,
    kvDeviceBlocks: index === 0 ? 3 : kvBlocks,
  }));
  const kvLoans = [{ owner: 0, holder: 1, blocks: { begin: 3, end: kvBlocks } }];
  expect(localOf({ ranks: kept, kvLoans })).toBe(3);
});

test('the longest step is one full of prompts, as long as the engine takes', () => {
  const { workload } = loaded.input;
  const predictedOf = (shardPlan: object, prefillChunk: number) =>
    epochOptionsOf(
      {
        ...atMoment,
        shardPlan: {
          ...loaded.shardPlan,
          predictedDecodeSeconds: 0.3,
          predictedPrefillSeconds: 0.2,
          ...shardPlan,
        },
        input: { ...loaded.input, workload: { ...workload, prefillChunk } },
      },
      request,
      paths,
    ).predictedStepSeconds;
  expect(predictedOf({ stepTokensMax: 512 }, 256)).toBeCloseTo(0.4);
  expect(predictedOf({ stepTokensMax: 512 }, 512)).toBeCloseTo(0.3);
  expect(predictedOf({ stepTokensMax: 512 }, 1024)).toBeCloseTo(0.3);
});

test('the moves of a step take as long as a decode step of the plan, and are 64 at most', () => {
  const seconds = loaded.shardPlan.predictedDecodeSeconds;
  const [first, second] = loaded.shardPlan.ranks.map(({ headGroups }) => {
    const groups = (headGroups?.end ?? 0) - (headGroups?.begin ?? 0);
    return loaded.shardPlan.kvBlockTokens * kvBytesPerToken(loaded.planRequest.model, groups);
  });
  const blockBytes = Math.max(first ?? 0, second ?? 0);
  const movesAt = (copyBytesPerSecond: number) => {
    const profiles = new Map(['a', 'b'].map((id) => [id, { copyBytesPerSecond }]));
    const group = { ...atMoment, profiles } as unknown as typeof loaded;
    return epochOptionsOf(group, request, paths).limits.parking?.movesPerStepMax;
  };
  expect(movesAt((7.5 * blockBytes) / seconds)).toBe(7);
  expect(movesAt((0.5 * blockBytes) / seconds)).toBe(1);
  expect(movesAt((1e6 * blockBytes) / seconds)).toBe(64);
  // Not measured: no choice, and the most.
  expect(movesAt(0)).toBeUndefined();
});
