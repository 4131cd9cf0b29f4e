/** What a worker makes of a plan's words about KV: options and moves for the engine, or a refusal before anything is loaded. */
import { describe, expect, it } from 'vitest';
import type { ShardPlan__Output } from '../../../proto/gen/hels/v1/ShardPlan.ts';
import type { StepRequest__Output } from '../../../proto/gen/hels/v1/StepRequest.ts';
import type { Engine, LoadRequest } from '../../../worker/binding/native.ts';
import { checkHostBytes, describeDevice } from '../../../worker/daemon/device.ts';
import { Shard } from '../../../worker/daemon/shard.ts';
import { stepBatchOf } from '../../../worker/daemon/wire.ts';
import { modelSpec } from '../../support/model-spec.ts';
import { shardPlan } from '../../support/shard-plan.ts';

const blocks = 8;
const blockTokens = 64;

function planOf(changes: Partial<ShardPlan__Output> = {}): ShardPlan__Output {
  const plan = shardPlan([
    { workerId: 'w', headGroups: [0, 1] },
    { workerId: 'v', headGroups: [0, 1] },
  ]);
  const deviceBlocks = [6, blocks + 3];
  return {
    ...plan,
    ranks: plan.ranks.map((rank) => ({ ...rank, kvDeviceBlocks: deviceBlocks[rank.rank] ?? 0 })),
    kvBlockTokens: blockTokens,
    kvBlocks: blocks,
    kvParkedBlocks: 4,
    kvLoans: [{ owner: 0, holder: 1, blocks: { begin: 6, end: 8 } }],
    ...changes,
  };
}

async function loadOf(plan: ShardPlan__Output, hostBytes: number, workerId = 'w') {
  const loads: LoadRequest[] = [];
  const shard = new Shard({
    workerId,
    collectiveHost: 'localhost',
    engineDevice: { device: 'cpu', multiprocessors: 0 },
    threads: 1,
    speed: 1,
    memoryFreeBytes: () => 2 ** 30,
    hostBytes,
    loadEngine: async (request) => {
      loads.push(request);
      const report = { weightBytesLoaded: 0, kvBytes: 0, scratchBytes: 0, fingerprint: '' };
      const engine = { openCollective: async () => '', report: async () => report };
      return engine as unknown as Engine;
    },
    measuringEnded: async () => undefined,
    modelDigest: async () => 'd',
    nowMs: () => 0,
  });
  const rank = workerId === 'w' ? 0 : 1;
  await shard.prepare(
    { fence: { term: 1, epoch: 1 }, plan, rank, previous: null },
    () => undefined,
  );
  return loads[0]?.options;
}

describe('a plan that says where KV lies', () => {
  const { layers, headDim } = modelSpec();
  const blockBytes = blockTokens * layers * 2 * headDim * 4;

  it('becomes options of the engine', async () => {
    expect(await loadOf(planOf(), 4 * blockBytes)).toMatchObject({
      kvBlocks: 8,
      kvParkedBlocks: 4,
      kvDeviceBlocks: 6,
      kvLoans: [
        { owner: 0, holder: 1, blocks: { begin: 6, end: 8 }, headGroups: { begin: 0, end: 1 } },
      ],
    });
    // Three of its parked blocks lie on the device.
    expect(await loadOf(planOf(), blockBytes, 'v')).toMatchObject({ kvDeviceBlocks: 11 });
  });

  it('is refused when the operator gave too little host memory, before anything is loaded', async () => {
    await expect(loadOf(planOf(), 4 * blockBytes - 1)).rejects.toMatchObject({
      code: 'memory-exceeded',
      message: expect.stringMatching(/rank 0 needs .* for 4 parked KV blocks; worker 'w' has/),
    });
    await expect(loadOf(planOf(), 0)).rejects.toThrow(/has 0 B; raise --device host=/);
  });

  it('is refused when an address has no home', async () => {
    await expect(loadOf(planOf({ kvLoans: [] }), 2 ** 30)).rejects.toMatchObject({
      code: 'request-invalid',
      field: 'kv_device_blocks',
    });
  });
});

describe('a step', () => {
  it('carries its moves to the engine', () => {
    const request: StepRequest__Output = {
      fence: null,
      step: 1,
      sequences: [],
      collectiveDeadlineMs: 5,
      kvMoves: [{ from: 3, to: 9 }],
    };
    const batch = { collectiveDeadlineMs: 5, sequences: [], kvMoves: [{ from: 3, to: 9 }] };
    expect(stepBatchOf(request)).toEqual(batch);
  });
});

describe('host memory for parked KV', () => {
  const device = {
    kind: 'cpu' as const,
    index: 0,
    multiprocessors: null,
    threads: 1,
    speed: 1,
    memoryBytes: null,
  };
  const host = { name: 'p', memoryAvailableBytes: 1000, hostAvailableBytes: 1000 };
  const gpu = { ...device, kind: 'cuda' as const };

  it('is not available to a device that lies in the host memory', () => {
    const now = { ...host, memoryAvailableBytes: 900 };
    expect(describeDevice({ ...device, hostBytes: 300 }, host, now)).toMatchObject({
      memoryBytes: 700,
      memoryFreeBytes: 600,
      hostMemoryBytes: 300,
    });
  });

  it('takes nothing from a GPU', () => {
    const gpuFacts = { ...host, memoryAvailableBytes: 500 };
    expect(describeDevice({ ...gpu, hostBytes: 900 }, gpuFacts, gpuFacts)).toMatchObject({
      memoryBytes: 500,
      memoryFreeBytes: 500,
      hostMemoryBytes: 900,
    });
    checkHostBytes({ ...gpu, hostBytes: 999 }, gpuFacts);
    expect(() => checkHostBytes({ ...gpu, hostBytes: 1000 }, gpuFacts)).toThrow(
      /this host has 1000 B available$/,
    );
  });

  it('must be there', () => {
    checkHostBytes({ ...device, hostBytes: 999 }, host);
    expect(() => checkHostBytes({ ...device, hostBytes: 1000 }, host)).toThrow(
      'device host is 1000 B; this host has 1000 B available, which weights and KV share',
    );
  });
});
