import { describe, expect, it } from 'vitest';
import { profiledDevice, reservedForOf } from '../../../controller/deployment/deployment-run.ts';
import { makePlan, type PlanRequest } from '../../../controller/deployment/make-plan.ts';
import { parkingNote, settledNote } from '../../../controller/deployment/parking-note.ts';
import { restoreCostsOf } from '../../../controller/deployment/restore-costs.ts';
import { kvOfRanks, taxOf } from '../../../controller/engine/kv-of-ranks.ts';
import { type ProfiledDevice, planDevices } from '../../../controller/profiler/plan-input.ts';
import {
  checkResidency,
  gpuLoanBlockTokens,
  residencyOf,
} from '../../../proto/domain/kv-residency.ts';
import { kvBytesPerToken } from '../../../proto/domain/model-spec.ts';
import { madeUpDevice } from '../cluster/made-up-device.ts';
import { requestFor } from '../cluster/trace.ts';
import { smallModel } from '../profiler/models.ts';

const blockTokens = 16;
/** Of one head group. */
const blockBytes = blockTokens * kvBytesPerToken(smallModel, 1);

const MiB = 2 ** 20;
const workload = { sequences: 2, contextTokens: 64, prefillChunk: 16, outputTokens: 8 };
const noted = { model: smallModel, workload, parks: true };
const line = { perHeadGroup: 1e-3, perFfnColumn: 1e-5, perVocabRow: 1e-7 };

function device(id: string, memoryBytes: number, hostMemoryBytes = 0): ProfiledDevice {
  const link = { constant: 1e-5, perToken: 0 };
  const lines = { decode: [line], prefill: [{ ...line, perTokenHeadGroup: 1e-5 }] };
  return { id, memoryBytes, reservedBytes: 0, ...lines, link, hostMemoryBytes };
}

/** `left` has three of the four head groups, `right` one. */
function planOf(devices: readonly ProfiledDevice[], changes: Partial<PlanRequest> = {}) {
  return makePlan(
    {
      epoch: 1,
      modelId: 'm',
      modelPath: '/m',
      modelDigest: 'd',
      model: smallModel,
      devices,
      workload,
      policy: 'hels',
      manual: [
        { workerId: 'left', headGroups: 3, ffnWeight: 3 },
        { workerId: 'right', headGroups: 1, ffnWeight: 1 },
      ],
      numerics: 'exact',
      stepTokensMax: 512,
      sequencesMax: 64,
      kvBlockTokens: blockTokens,
      parks: true,
      settles: false,
      ...changes,
    },
    () => 0,
  );
}

it('refuses a split by hand that names a worker twice or one that is not there', () => {
  const devices = [device('left', 24 * MiB), device('right', 60 * MiB)];
  const manual = (...ids: string[]) => ({
    manual: ids.map((workerId) => ({ workerId, headGroups: 1, ffnWeight: 1 })),
  });
  const refused = (...ids: string[]) => expect(() => planOf(devices, manual(...ids)));
  refused('left', 'right', 'left').toThrow("ranks: worker 'left' is named twice");
  refused('left', 'middle').toThrow(
    "ranks: worker 'middle' is not registered, or it is silent or drained",
  );
});

it('leaves out a worker whose memory is all taken, and plans over the others', () => {
  const reserved = reservedForOf(requestFor('m'), smallModel, 3);
  const described = (id: string, memoryFreeBytes: number) => {
    const { decode, prefill, link } = device(id, 0);
    const worker = { id, device: { ...madeUpDevice, memoryFreeBytes } };
    return profiledDevice(worker, { decode: [...decode], prefill: [...prefill] }, link, reserved);
  };
  const devices = [described('left', 512 * MiB), described('full', 0), described('right', 2 ** 30)];
  const { shardPlan } = planOf(devices, { manual: [] });
  expect(shardPlan.ranks.map(({ workerId }) => workerId)).not.toContain('full');
});

describe('parked blocks of a plan', () => {
  it('are none without host memory, whatever else a rank has room for', () => {
    const { shardPlan } = planOf([device('left', 24 * MiB), device('right', 60 * MiB)]);
    expect(shardPlan).toMatchObject({ kvParkedBlocks: 0, kvLoans: [] });
    for (const { kvDeviceBlocks, kvHostBytes } of shardPlan.ranks) {
      expect([kvDeviceBlocks, kvHostBytes]).toEqual([shardPlan.kvBlocks, 0]);
    }
    expect(parkingNote(shardPlan, { ...noted, devices: [device('left', 0)] })).toBeNull();
  });

  it('are as many as the rank with the least room for them has, on its device or in host memory', () => {
    const devices = [
      device('left', 24 * MiB, 100 * 3 * blockBytes + 5),
      device('right', 60 * MiB, 0),
    ];
    const { shardPlan } = planOf(devices);
    const { kvBlocks, kvParkedBlocks, ranks } = shardPlan;
    expect(kvParkedBlocks).toBe(100);
    expect(ranks[0]).toMatchObject({
      kvDeviceBlocks: kvBlocks,
      kvBytes: kvBlocks * 3 * blockBytes,
      kvHostBytes: 100 * 3 * blockBytes,
    });
    // It has room on the device.
    expect(ranks[1]).toMatchObject({
      kvDeviceBlocks: kvBlocks + 100,
      kvBytes: (kvBlocks + 100) * blockBytes,
      kvHostBytes: 0,
    });
    checkResidency(residencyOf(shardPlan));
    expect(parkingNote(shardPlan, { ...noted, devices })).toMatch(
      /^1600 tokens of KV can be parked beside \d+ /,
    );
  });

  it('are none when a rank has less than a block, and that is told with both numbers', () => {
    const devices = [
      device('left', 24 * MiB, 3 * blockBytes - 512),
      device('right', 60 * MiB, 10 * blockBytes),
    ];
    const { shardPlan } = planOf(devices);
    expect(shardPlan.kvParkedBlocks).toBe(0);
    expect(parkingNote(shardPlan, { ...noted, devices })).toMatch(
      /worker 'left' has 47.50 KiB of host memory, a block needs 48.00 KiB; raise --device host=/,
    );
  });

  it('are said to lack on the rank that has no room, not on one that holds KV for it', () => {
    const workload = { sequences: 8, contextTokens: 192, prefillChunk: 16, outputTokens: 8 };
    const lent = { workload: { ...workload, allowRemoteKv: true } };
    const devices = [device('right', 60 * MiB, 2 ** 36), device('left', 15 * MiB, 1024)];
    const { shardPlan } = planOf(devices, lent);
    expect(shardPlan.kvBlockTokens).toBe(64);
    expect(shardPlan.kvLoans[0]).toMatchObject({ owner: 1, holder: 0 });
    expect(shardPlan.kvParkedBlocks).toBe(0);
    // Four blocks of 16 tokens and one head group, three times.
    expect(parkingNote(shardPlan, { ...noted, devices })).toMatch(
      /worker 'left' has 1.00 KiB of host memory, a block needs 192.00 KiB; raise --device host=/,
    );
  });

  it('are none where sequences that give way are not kept', () => {
    const devices = [device('left', 24 * MiB, 2 ** 36), device('right', 60 * MiB, 2 ** 36)];
    const { shardPlan } = planOf(devices, { parks: false });
    expect(shardPlan).toMatchObject({ kvParkedBlocks: 0 });
    for (const { kvDeviceBlocks, kvHostBytes } of shardPlan.ranks) {
      expect([kvDeviceBlocks, kvHostBytes]).toEqual([shardPlan.kvBlocks, 0]);
    }
  });

  it('are no more than all sequences at full length can use', () => {
    const devices = [device('left', 24 * MiB, 2 ** 36), device('right', 60 * MiB, 2 ** 36)];
    const { shardPlan } = planOf(devices);
    const { kvBlocks, kvParkedBlocks } = shardPlan;
    expect(kvBlocks + kvParkedBlocks).toBe(64 * (smallModel.maxPositions / blockTokens));
    const few = planOf(devices, { sequencesMax: 1 });
    expect(few.shardPlan).toMatchObject({ kvBlocks: 32, kvParkedBlocks: 0 });
    expect(parkingNote(few.shardPlan, { ...noted, devices })).toMatch(
      /all sequences at full length/,
    );
  });
});

describe('a workload whose KV does not fit all at once', () => {
  const load = { sequences: 6, contextTokens: 256, prefillChunk: 16, outputTokens: 8 };
  const byPolicy = { workload: load, manual: [] };
  const roomy = ['left', 'right'].map((id) => device(id, 60 * MiB));
  const half = planOf(roomy, byPolicy).shardPlan.ranks[0]?.weightBytes ?? 0;
  /** Room for a third of the KV. */
  const short = (hostMemoryBytes: number) =>
    roomy.map((one) => ({ ...one, memoryBytes: half + 64 * blockBytes, hostMemoryBytes }));

  it('is planned for the most sequences that fit at once, and the rest waits in host memory, where somebody gave some', () => {
    expect(() => planOf(short(0), byPolicy)).toThrow(/^no split fits: kv: /);
    const { shardPlan, input } = planOf(short(64 * MiB), byPolicy);
    const { kvBlocks, kvParkedBlocks } = shardPlan;
    const needed = (6 * 256) / blockTokens;
    expect(kvBlocks).toBeLessThan(needed);
    expect(kvBlocks + kvParkedBlocks).toBeGreaterThanOrEqual(needed);
    expect(kvBlocks).toBeGreaterThanOrEqual((input.workload.sequences * 256) / blockTokens);
    // One more fits nowhere.
    const more = { ...load, sequences: input.workload.sequences + 1 };
    expect(() => planOf(short(0), { ...byPolicy, workload: more })).toThrow(/^no split fits/);
    expect(parkingNote(shardPlan, { ...noted, workload: load, devices: short(64 * MiB) })).toMatch(
      new RegExp(
        `: of 6 sequences of 256 tokens ${input.workload.sequences} run at once, the others wait their turn$`,
      ),
    );
    const manual = ['left', 'right'].map((workerId) => ({ workerId, headGroups: 2, ffnWeight: 1 }));
    const byHand = planOf(short(64 * MiB), { workload: load, manual });
    expect(byHand.shardPlan.kvParkedBlocks).toBeGreaterThan(0);
    expect(byHand.input.workload.sequences).toBe(
      Math.floor((byHand.shardPlan.kvBlocks * blockTokens) / 256),
    );
  });

  it('is refused where host memory and devices together do not hold it, or nobody waits', () => {
    expect(() => planOf(short(blockBytes * 8), byPolicy)).toThrow(
      /^no split fits: kv: .*; with host memory, \d+ tokens can run and \d+ wait of 1536 that 6 sequences of 256 take: raise host= or memory=/,
    );
    expect(() => planOf(short(64 * MiB), { ...byPolicy, parks: false })).toThrow(
      /^no split fits: kv/,
    );
  });

  it('is planned for as many sequences as fit where something must serve', () => {
    const settles = { ...byPolicy, settles: true };
    const made = planOf(short(0), settles);
    const { sequences } = made.input.workload;
    expect(sequences).toBeGreaterThan(0);
    expect(sequences).toBeLessThan(6);
    expect(made.shardPlan.kvBlocks).toBeGreaterThanOrEqual((sequences * 256) / blockTokens);
    expect(settledNote(made, { workload: load, settles: true })).toBe(
      `the workers hold KV of ${sequences} of 6 sequences of 256 tokens: the plan is for these`,
    );
    expect(settledNote(made, { workload: load, settles: false })).toBeNull();
    // Host memory, be it ever so little, costs nobody the room.
    const { shardPlan } = planOf(short(blockBytes * 8), settles);
    expect(shardPlan.kvBlocks).toBe(made.shardPlan.kvBlocks);
    expect(() => planOf(short(0).slice(1), settles)).toThrow(/^no split fits: memory: /);
  });

  it('is resident where it fits, whatever host memory there is', () => {
    const hosts = roomy.map((one) => ({ ...one, hostMemoryBytes: 64 * MiB }));
    const { ranks } = planOf(hosts, byPolicy).shardPlan;
    const places = (list: typeof ranks) =>
      list.map(({ headGroups, ffnColumns }) => [headGroups, ffnColumns]);
    expect(places(ranks)).toEqual(places(planOf(roomy, byPolicy).shardPlan.ranks));
  });
});

describe('what it costs to bring KV back', () => {
  const devices = [device('left', 24 * MiB), device('right', 60 * MiB)];

  it('is a copy of the block on the slowest rank, or what its tokens add to a step', () => {
    const profiles = new Map([
      ['left', { copyBytesPerSecond: 1e9 }],
      ['right', { copyBytesPerSecond: 1e8 }],
    ]);
    const costs = restoreCostsOf({ ...planOf(devices), profiles });
    expect(costs?.moveSecondsPerBlock).toBeCloseTo(blockBytes / 1e8, 9);
    expect(costs?.exchangeSecondsPerStep).toBe(0);
    // The lines of a decode step have no price per token.
    expect(costs?.replaySecondsPerToken).toBeCloseTo(0, 12);
    expect(costs?.replaySecondsPerContextToken).toBe(0);
  });

  it('has the link in it for what lies on another rank', () => {
    const workload = { sequences: 8, contextTokens: 192, prefillChunk: 16, outputTokens: 8 };
    const lent = { workload: { ...workload, allowRemoteKv: true } };
    const linked = [device('left', 15 * MiB), device('right', 60 * MiB)].map((one) => ({
      ...one,
      link: { constant: 0.05, perToken: 1e-4 },
    }));
    const plan = planOf(linked, lent);
    const [loan] = plan.shardPlan.kvLoans;
    const share = ((loan?.blocks?.end ?? 0) - (loan?.blocks?.begin ?? 0)) / plan.shardPlan.kvBlocks;
    expect(share).toBeGreaterThan(0);
    const profiles = new Map(
      ['left', 'right'].map((id) => [id, { copyBytesPerSecond: 1e9 }] as const),
    );
    const bytes = 3 * 4 * blockBytes;
    const perByte = 1e-4 / (2 * smallModel.layers * smallModel.hiddenSize * 8);
    const costs = restoreCostsOf({ ...plan, profiles });
    expect(costs?.moveSecondsPerBlock).toBeCloseTo(bytes / 1e9 + share * bytes * perByte, 12);
    // What comes home crosses it whole.
    expect(costs?.recallSecondsPerBlock).toBeCloseTo(bytes / 1e9 + bytes * perByte, 12);
    const { layers } = smallModel;
    expect(costs?.exchangeSecondsPerStep).toBeCloseTo((0.05 * 2 * layers) / (2 * layers + 1), 12);
  });

  it('is unknown where copying was not measured', () => {
    const profiles = new Map([['left', { copyBytesPerSecond: 1e9 }]]);
    expect(restoreCostsOf({ ...planOf(devices), profiles })).toBeNull();
  });
});

/** Bytes of the left one's weights: three quarters, with the whole embedding. */
const weightsLeft = planOf([device('left', 24 * MiB), device('right', 60 * MiB)]).shardPlan.ranks[0]
  ?.weightBytes as number;

describe('room for KV', () => {
  const workload = { sequences: 1, contextTokens: 1, prefillChunk: 16, outputTokens: 8 };
  const withRoom = (bytes: number, changes = {}) =>
    planOf([device('left', weightsLeft + bytes), device('right', 60 * MiB)], {
      workload: { ...workload, ...changes },
    });
  const block = 3 * blockBytes;

  it('for less than a block, or than a warm-up needs, is told with the numbers and the worker', () => {
    expect(() => withRoom(block - 1)).toThrow(
      expect.objectContaining({
        code: 'plan-infeasible',
        message:
          "KV: worker 'left' has 48.00 KiB for KV beside its weights and a block of 16 tokens needs 48.00 KiB there, " +
          'so the group holds 0 blocks; one sequence of 28 tokens takes 2: raise memory= of its --device',
      }),
    );
    expect(() => withRoom(block)).toThrow(/holds 1 blocks; one sequence of 28 tokens takes 2/);
    expect(withRoom(2 * block).shardPlan.kvBlocks).toBe(2);
  });

  it('for less than a sequence of the plan in whole blocks is told as well', () => {
    expect(() => withRoom(3 * block - 1, { contextTokens: 33 })).toThrow(
      /holds 2 blocks; one sequence of 33 tokens takes 3/,
    );
  });
});

describe('where the KV of a group is', () => {
  it('is told by rank', () => {
    const scheduler = { addresses: { runnable: [0, 3, 7], parked: [9, 10] }, droppedTokens: 5 };
    const residency = {
      kvBlocks: 8,
      kvParkedBlocks: 4,
      kvBlockTokens: 64,
      deviceBlocks: [10, 2, 8],
      loans: [{ owner: 1, holder: 2, blocks: { begin: 2, end: 8 } }],
    };
    const workerIds = ['a', 'b', 'no heads'];
    const headGroups = [3, 1, 0];
    const nothing = { resident: 0, remote: 0, parked: 0, parkedInHost: 0, dropped: 0, held: 0 };
    const waits = { ...nothing, parked: 128, dropped: 5 };
    expect(kvOfRanks({ loop: { scheduler }, residency, workerIds, headGroups })).toEqual([
      { ...waits, workerId: 'a', resident: 192, parkedInHost: 64 },
      { ...waits, workerId: 'b', resident: 64, remote: 128, parkedInHost: 128 },
      { ...nothing, workerId: 'no heads', held: 128 },
    ]);
    expect(taxOf({ computedTokens: 0, recomputedTokens: 0 })).toBe(0);
    expect(taxOf({ computedTokens: 8, recomputedTokens: 2 })).toBe(0.25);
  });
});

describe('loans of KV', () => {
  const workload = { sequences: 2, contextTokens: 64, prefillChunk: 16, outputTokens: 8 };
  const onGpu = { loanBlockTokens: gpuLoanBlockTokens };
  const devices = [device('left', 24 * MiB), { ...device('right', 60 * MiB), ...onGpu }];

  it('are refused by name between a GPU and a processor', () => {
    const asked = { workload: { ...workload, allowRemoteKv: true } };
    const refused = /allowRemoteKv: worker 'right' is on a GPU and worker 'left' is not/;
    expect(() => planOf(devices, asked)).toThrow(refused);
    expect(() => planOf(devices.toReversed(), asked)).toThrow(refused);
    expect(planOf(devices, { workload }).shardPlan.kvLoans).toEqual([]);
  });

  it('have blocks of a GPU between GPUs, and nothing is parked beside them', () => {
    const load = { sequences: 4, contextTokens: 512, prefillChunk: 16, outputTokens: 8 };
    const gpus = [15, 60].map((memory, index) => ({
      ...device(index === 0 ? 'left' : 'right', memory * MiB, 64 * MiB),
      ...onGpu,
    }));
    const lent = planOf(gpus, { workload: { ...load, allowRemoteKv: true } });
    const { kvBlockTokens, kvBlocks, kvLoans, kvParkedBlocks } = lent.shardPlan;
    expect([kvBlockTokens, kvParkedBlocks]).toEqual([256, 0]);
    expect(kvBlocks).toBeGreaterThanOrEqual(8);
    expect(kvLoans[0]).toMatchObject({ owner: 0, holder: 1 });
    // Buffers do not grow with what is lent: all of its own room is full.
    const own = Math.floor((15 * MiB - weightsLeft) / ((256 / blockTokens) * 3 * blockBytes));
    expect(lent.shardPlan.ranks[0]?.kvDeviceBlocks).toBe(own);
    expect(lent.input.loanBlockTokens).toBe(256);
    checkResidency(residencyOf(lent.shardPlan));
    expect(planOf(gpus, { workload: { ...load, sequences: 1 } }).shardPlan).toMatchObject({
      kvBlockTokens: blockTokens,
    });
    // What fits nowhere, lent or not, waits: then nothing is lent.
    const all = { ...load, sequences: 40, allowRemoteKv: true };
    const waits = planOf(
      gpus.map((one) => ({ ...one, hostMemoryBytes: 2 ** 30 })),
      { workload: all, manual: [] },
    );
    expect(waits.shardPlan.kvLoans).toEqual([]);
    expect(waits.shardPlan.kvParkedBlocks).toBeGreaterThan(0);
  });

  it('change nothing where a workload fits without them in tokens, but not in their blocks', () => {
    const load = { sequences: 8, contextTokens: 65, prefillChunk: 16, outputTokens: 8 };
    const bytes = weightsLeft + (520 * 3 * blockBytes) / blockTokens;
    const roomy = [device('left', bytes), device('right', 60 * MiB)];
    const without = planOf(roomy, { workload: load });
    const allowed = planOf(roomy, { workload: { ...load, allowRemoteKv: true } });
    expect(allowed.shardPlan).toEqual(without.shardPlan);
  });

  it('are nothing that the planner is told of', () => {
    for (const told of planDevices(devices)) {
      expect(Object.keys(told)).not.toContain('loanBlockTokens');
      expect(Object.keys(told)).not.toContain('hostMemoryBytes');
    }
  });
});
