/** A Prepare that names the epoch before: which engine is kept, which is closed, and that none is left over. */
import { describe, expect, it } from 'vitest';
import type { PrepareRequest__Output } from '../../../proto/gen/hels/v1/PrepareRequest.ts';
import type { ShardPlan__Output } from '../../../proto/gen/hels/v1/ShardPlan.ts';
import type { KvMigration } from '../../../worker/binding/engine-types.ts';
import type { Engine, LoadRequest } from '../../../worker/binding/native.ts';
import { NewestRun } from '../../../worker/daemon/newest-run.ts';
import { Shard } from '../../../worker/daemon/shard.ts';
import { shardPlan } from '../../support/shard-plan.ts';

const fence = (epoch: number) => ({ term: 1, epoch });
const resident = 1000;

/** Holds its commands until the test lets them end, if it says so. */
class FakeEngine {
  readonly log: string[] = [];
  readonly reloads: LoadRequest[] = [];
  readonly migrations: (KvMigration | null)[] = [];
  closed = false;
  failReload = false;
  hold: Promise<void> = Promise.resolve();
  #kept = false;

  async reload(request: LoadRequest): Promise<void> {
    this.reloads.push(request);
    await this.hold;
    if (this.failReload) throw new Error('the files are gone');
    this.#kept = true;
  }

  async openCollective(): Promise<string> {
    return 'address';
  }

  async connect(): Promise<void> {
    this.log.push('connect');
    await this.hold;
  }

  async migrateKv(migration: KvMigration | null) {
    this.migrations.push(migration);
    this.#kept = false;
    return { seconds: 0.5, bytesReceived: 77 };
  }

  async report() {
    return {
      weightBytesLoaded: 10,
      weightBytesAdopted: this.reloads.length > 0 ? 90 : 0,
      kvKept: this.#kept,
      kvBytes: 5,
      scratchBytes: 6,
      residentBytes: resident,
      fingerprint: 'f',
    };
  }

  abort(): void {
    this.log.push('abort');
  }

  async close(): Promise<void> {
    this.closed = true;
  }
}

const planOf = (changes: Partial<ShardPlan__Output> = {}) =>
  shardPlan(
    [
      { workerId: 'w', headGroups: [0, 2] },
      { workerId: 'v', headGroups: [2, 4] },
    ],
    changes,
  );

class World {
  readonly engines: FakeEngine[] = [];
  readonly heldBytes: number[] = [];
  readonly measuring = new NewestRun();
  readonly shard: Shard;

  constructor(device = 'cpu') {
    this.shard = new Shard({
      workerId: 'w',
      collectiveHost: 'localhost',
      engineDevice: { device, multiprocessors: 0 },
      threads: 1,
      speed: 1,
      memoryFreeBytes: (held) => {
        this.heldBytes.push(held);
        return 5000 + held;
      },
      hostBytes: 0,
      loadEngine: async () => {
        const engine = new FakeEngine();
        this.engines.push(engine);
        return engine as unknown as Engine;
      },
      measuringEnded: () => this.measuring.idle(),
      modelDigest: async (directory) => (directory === '/other' ? 'e' : 'd'),
      nowMs: () => 0,
    });
  }

  prepare(epoch: number, previous: number | null, plan = planOf()) {
    const request: PrepareRequest__Output = {
      fence: fence(epoch),
      plan: { ...plan, epoch },
      rank: 0,
      previous: previous === null ? null : fence(previous),
    };
    return this.shard.prepare(request, () => undefined);
  }

  connect(epoch: number, previousHeadGroups: { begin: number; end: number }[] | null = null) {
    return this.shard.connect({
      fence: fence(epoch),
      collectiveAddresses: ['a', 'b'],
      deadlineMs: 100,
      migration:
        previousHeadGroups === null
          ? null
          : { previousHeadGroups, previousLoans: [], blocks: [{ begin: 0, end: 4 }], parked: [] },
    });
  }

  /** An epoch that is served. */
  static async serving(device?: string): Promise<World & { first: FakeEngine }> {
    const world = new World(device);
    await world.prepare(1, null);
    await world.connect(1);
    return Object.assign(world, { first: world.engines[0] as FakeEngine });
  }
}

const evenly = [
  { begin: 0, end: 2 },
  { begin: 2, end: 4 },
];

describe('the epoch that a Prepare names', () => {
  it('ends for steps, and its engine is loaded anew with the memory that it has', async () => {
    const world = await World.serving();
    const ended = world.shard.endedSignal(fence(1));
    const result = await world.prepare(2, 1);
    expect(ended?.reason).toMatchObject({ code: 'stale-fence' });
    expect(world.engines).toHaveLength(1);
    expect(world.first.closed).toBe(false);
    expect(world.first.reloads[0]?.options.memoryBytes).toBe(5000 + resident);
    expect(world.heldBytes).toEqual([0, resident]);
    expect(result).toMatchObject({
      weightBytesLoaded: 10,
      weightBytesAdopted: 90,
      kvKept: true,
      collectiveAddress: 'address',
    });
  });

  it('has KV that Connect migrates, once, or frees', async () => {
    const world = await World.serving();
    expect(world.first.migrations).toEqual([null]);
    await world.prepare(2, 1);
    expect(await world.connect(2, evenly)).toEqual({
      fingerprint: 'f',
      migrationSeconds: 0.5,
      migrationBytes: 77,
    });
    expect(world.first.migrations[1]).toMatchObject({ previousHeadGroups: evenly });
    await world.prepare(3, 2);
    await world.connect(3);
    expect(world.first.migrations[2]).toBeNull();
  });

  it('has none that could be migrated when it was not kept', async () => {
    const world = await World.serving();
    await world.prepare(2, null);
    await expect(world.connect(2, evenly)).rejects.toMatchObject({
      code: 'request-invalid',
      field: 'migration.previous_head_groups',
    });
    // The request was wrong; the epoch stays.
    await expect(world.connect(2)).resolves.toMatchObject({ fingerprint: 'f' });
  });

  it.each([
    ['another epoch', 3, 2, planOf()],
    ['none', 2, null, planOf()],
    ['other files', 2, 1, planOf({ modelPath: '/other', modelDigest: 'e' })],
  ])(
    'gives nothing when it is %s: it is closed before anything is measured',
    async (_, epoch, previous, plan) => {
      const world = await World.serving();
      const result = await world.prepare(epoch, previous, plan);
      expect(world.first.closed).toBe(true);
      expect(world.engines).toHaveLength(2);
      expect(world.heldBytes).toEqual([0, 0]);
      expect(result).toMatchObject({ weightBytesAdopted: 0, kvKept: false });
    },
  );

  it('gives on a GPU, too', async () => {
    const world = await World.serving('cuda:0');
    await world.prepare(2, 1);
    expect(world.first.closed).toBe(false);
    expect(world.engines).toHaveLength(1);
  });
});

it('what is measured ends, and its memory is free, before a shard is given any', async () => {
  const world = new World();
  let end = () => {};
  const measured = world.measuring.run(fence(1), () => {
    return new Promise((resolve) => {
      end = resolve;
    });
  });
  const loading = world.prepare(2, null);
  await new Promise((resolve) => setImmediate(resolve));
  expect([world.shard.state.phase, world.heldBytes]).toEqual(['preparing', []]);
  // Whoever measures asks before each point.
  expect(() => world.shard.refuseProfile(fence(1))).toThrow('loading a shard');
  end();
  await measured;
  await loading;
  expect(world.heldBytes).toEqual([0]);
});

describe('no engine is left over', () => {
  it('when loading the next epoch fails', async () => {
    const world = await World.serving();
    world.first.failReload = true;
    await expect(world.prepare(2, 1)).rejects.toThrow('the files are gone');
    expect(world.first.closed).toBe(true);
    expect(world.shard.state).toMatchObject({ phase: 'idle', held: null });
  });

  it('when the next plan is refused before it is loaded', async () => {
    for (const wrong of [{ modelDigest: 'x' }, { kvParkedBlocks: 1 }]) {
      const world = await World.serving();
      await expect(world.prepare(2, 1, planOf(wrong))).rejects.toThrow();
      expect(world.first.closed).toBe(true);
      expect(world.shard.state.phase).toBe('idle');
    }
  });

  it('when the controller never connects: a release or a newer Prepare ends it', async () => {
    const released = await World.serving();
    await released.prepare(2, 1);
    await released.shard.release(fence(2));
    expect(released.first.closed).toBe(true);
    const replaced = await World.serving();
    await replaced.prepare(2, 1);
    await replaced.prepare(3, null);
    expect(replaced.first.closed).toBe(true);
    const taken = await World.serving();
    await taken.prepare(2, 1);
    await taken.prepare(3, 2);
    expect(taken.first).toMatchObject({ closed: false, reloads: [{}, {}] });
  });

  it('when a newer Prepare, a release or the end of the daemon comes while it loads', async () => {
    const ends = [
      (world: World) => world.prepare(3, 2),
      (world: World) => world.shard.release(fence(2)),
      (world: World) => {
        world.shard.beginDrain();
        return world.shard.close();
      },
    ];
    for (const end of ends) {
      const world = await World.serving();
      let go = () => {};
      world.first.hold = new Promise((resolve) => {
        go = resolve;
      });
      const loading = world.prepare(2, 1);
      await expect.poll(() => world.first.reloads).toHaveLength(1);
      const ended = end(world);
      go();
      await expect(loading).rejects.toThrow();
      await ended;
      expect(world.first.closed).toBe(true);
    }
  });
});

it('a plan of another epoch than its fence is refused, and what is held serves on', async () => {
  const world = await World.serving();
  const request = { fence: fence(2), plan: planOf({ epoch: 3 }), rank: 0, previous: fence(1) };
  await expect(world.shard.prepare(request, () => undefined)).rejects.toMatchObject({
    code: 'request-invalid',
    field: 'plan.epoch',
    message: "plan.epoch is 3; the fence's is 2",
  });
  expect(world.shard.state).toMatchObject({ phase: 'connected', newest: fence(1) });
  expect(world.first.closed).toBe(false);
});

it('a Connect that a newer Prepare overtakes leaves the next epoch alone', async () => {
  const world = new World();
  await world.prepare(1, null);
  const first = world.engines[0] as FakeEngine;
  let go = () => {};
  first.hold = new Promise((resolve) => {
    go = resolve;
  });
  const connecting = world.connect(1);
  const preparing = world.prepare(2, 1);
  go();
  await expect(connecting).rejects.toMatchObject({ code: 'stale-fence' });
  expect(first.migrations).toEqual([]);
  expect(await preparing).toMatchObject({ kvKept: true });
});
