/** The coordinator over workers that are real servers and compute nothing: deployments that do not come to serve. */
import * as grpc from '@grpc/grpc-js';
import { Registry } from 'prom-client';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { ClusterEvents } from '../../../controller/deployment/cluster-events.ts';
import { Coordinator } from '../../../controller/deployment/coordinator.ts';
import { DeploymentState } from '../../../controller/deployment/deployment-state.ts';
import type { EngineGroup, OpenEngineGroup } from '../../../controller/deployment/engine-group.ts';
import { makePlan } from '../../../controller/deployment/make-plan.ts';
import { nothingMeasured } from '../../../controller/deployment/plan-report.ts';
import { PredictionTracker } from '../../../controller/deployment/prediction-tracker.ts';
import { ReplanLog } from '../../../controller/deployment/replan-log.ts';
import { WorkerRegistry } from '../../../controller/deployment/worker-registry.ts';
import { SwitchingEngine } from '../../../controller/engine/generation-engine.ts';
import { openGroupWith } from '../../../controller/engine/open-group.ts';
import { ServingMetrics } from '../../../controller/metrics/serving-metrics.ts';
import { Scheduler } from '../../../controller/scheduler/scheduler.ts';
import { campaign } from '../../../controller/store/leadership.ts';
import { MemoryStore } from '../../../controller/store/memory-store.ts';
import { TextModel } from '../../../controller/tokenizer/text-model.ts';
import { systemClock } from '../../../proto/base/clock.ts';
import { createLogger } from '../../../proto/base/log.ts';
import { HelsError } from '../../../proto/domain/errors.ts';
import type { DeployEvent } from '../../../proto/gen/hels/v1/DeployEvent.ts';
import type { WorkerHandlers } from '../../../proto/gen/hels/v1/Worker.ts';
import { WorkerService } from '../../../proto/rpc/definitions.ts';
import { bundledModel, bundledModelId } from '../../support/daemons.ts';
import { eventually } from '../../support/deadline.ts';
import { FakeRank, stubOf } from '../../support/fake-ranks.ts';
import { requestOf } from '../../support/generation-requests.ts';
import { requestFor } from '../cluster/trace.ts';

const request = { ...requestFor(''), modelPath: bundledModel, workersMin: 1 };

const ends: (() => Promise<unknown> | unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
  vi.restoreAllMocks();
});

const device = {
  ...{ kind: 'cpu', name: 'made up', threads: 1, speed: 1, emulated: false, implementation: 'x' },
  ...{ memoryBytes: 2 ** 30, memoryFreeBytes: 2 ** 30, hostMemoryBytes: 0 },
};

/** Its steps take 1 us, and 1 us for each token and head; it loads and never ends, unless it `loads`: then it connects and never ends. */
class LoadingWorker {
  readonly id: string;
  readonly #loads: boolean;
  loading = 0;
  /** Ends its Connect. */
  connect: (() => void) | null = null;
  /** Epochs. */
  readonly released: number[] = [];
  readonly #server = new grpc.Server();

  constructor(id: string, loads = false) {
    this.id = id;
    this.#loads = loads;
    const handlers: Partial<WorkerHandlers> = {
      Describe: (_, done) => done(null, { device }),
      Profile: (call) => {
        for (const [index, { tokens, headGroups }] of call.request.points.entries()) {
          call.write({ point: { index, seconds: 1e-6 * (1 + tokens * headGroups), progress: 1 } });
        }
        call.end();
      },
      Prepare: (call) => {
        this.loading += 1;
        call.write({ progress: 'reading weights' });
        if (!this.#loads) return;
        call.write({ result: { collectiveAddress: 'nowhere:1' } });
        call.end();
      },
      Connect: (_, done) => {
        this.connect = () => done(null, { fingerprint: 'x' });
      },
      Release: (call, done) => {
        this.released.push(call.request.fence?.epoch ?? 0);
        done(null, {});
      },
    };
    this.#server.addService(WorkerService.service, handlers as grpc.UntypedServiceImplementation);
    ends.push(() => this.#server.forceShutdown());
  }

  async joins(registry: WorkerRegistry): Promise<this> {
    const port = await new Promise<number>((resolve, reject) => {
      const credentials = grpc.ServerCredentials.createInsecure();
      this.#server.bindAsync('127.0.0.1:0', credentials, (error, bound) =>
        error ? reject(error) : resolve(bound),
      );
    });
    const worker = { incarnation: `${this.id}1`, address: `127.0.0.1:${port}`, version: '0' };
    registry.register({ workerId: this.id, ...worker, device });
    return this;
  }
}

async function setUp() {
  const text = { strayTokenIds: [] as readonly number[], close: async () => undefined };
  vi.spyOn(TextModel, 'load').mockResolvedValue(text as TextModel);
  const store = new MemoryStore();
  const leadership = await campaign(store, 'test', new AbortController().signal);
  const state = new DeploymentState(store, leadership);
  const [clock, log] = [systemClock, createLogger('test', 'error')];
  log.transports.forEach((transport) => {
    transport.silent = true;
  });
  const { term } = leadership;
  const registry = new WorkerRegistry(term, clock, log, () => undefined);
  const openGroup = vi.fn<OpenEngineGroup>(() => {
    throw new Error('nothing comes to serve here');
  });
  const observer = { replanned: () => undefined, replanFailed: () => undefined };
  const coordinator = new Coordinator({
    ...{ term, lastEpoch: 4, registry, store: state, clock, log },
    makePlan: async (planRequest) => makePlan(planRequest, () => 0),
    openGroup,
    replans: new ReplanLog(() => undefined, observer),
    events: new ClusterEvents(clock, log),
    credentials: grpc.credentials.createInsecure(),
  });
  registry.connect(coordinator, () => false);
  ends.push(
    () => store.close(),
    () => coordinator.close(new HelsError('draining', 'over')),
  );
  return { coordinator, registry, state, openGroup, clock, log };
}

/** What the caller of a deployment sees: the phases, then how it ended. */
function follow(events: AsyncIterable<DeployEvent>) {
  const phases: string[] = [];
  const read = async () => {
    for await (const { progress } of events) {
      if (progress?.phase && phases.at(-1) !== progress.phase) phases.push(progress.phase);
    }
  };
  const ended = read();
  ended.catch(() => undefined);
  return { phases, ended };
}

const never = new AbortController().signal;

describe('a deployment', () => {
  it('without enough workers in time ends with how many there are', async () => {
    const { coordinator, registry } = await setUp();
    await new LoadingWorker('a').joins(registry);
    const { phases, ended } = follow(coordinator.deploy({ ...request, workersMin: 2 }, 150, never));
    await expect(ended).rejects.toMatchObject({
      code: 'deadline-exceeded',
      message: '1 of 2 workers registered within 150 ms; start more, or lower --workers',
    });
    expect(phases).toEqual(['waiting']);
    expect(coordinator.group).toMatchObject({ phase: 'failed', epoch: 5 });
    expect(coordinator.serving).toBeNull();
  });

  it('is told when another one takes its place while it waits for workers', async () => {
    const { coordinator } = await setUp();
    const first = follow(coordinator.deploy(request, 10_000, never));
    await eventually(10_000, 'it waits', () => first.phases.includes('waiting'));
    const second = follow(coordinator.deploy({ ...request, modelId: 'b' }, 50, never));
    await expect(first.ended).rejects.toMatchObject({
      code: 'cancelled',
      message: `another deployment took its place: deploying ${bundledModel}`,
    });
    await expect(second.ended).rejects.toMatchObject({ code: 'deadline-exceeded' });
  });

  const endings = {
    'an undeploy': ({ coordinator }) => coordinator.undeploy(bundledModelId),
    'the loss of a worker': ({ registry }) => registry.deregister('a', 'a1', 'killed'),
    'a caller who leaves': ({ abort }) => abort.abort(new Error('left')),
  } satisfies Record<string, (at: Awaited<ReturnType<typeof loading>>) => unknown>;

  /** A deployment whose one worker loads. */
  async function loading() {
    const site = await setUp();
    const worker = await new LoadingWorker('a').joins(site.registry);
    const abort = new AbortController();
    const deployment = follow(site.coordinator.deploy(request, 1_000, abort.signal));
    await eventually(10_000, 'the worker loads', () => worker.loading === 1);
    return { ...site, worker, abort, deployment };
  }

  it.each(Object.entries(endings).map(([what, end]) => ({ what, end })))(
    'is ended while it loads by $what, and is not in the way of the next one',
    async ({ what, end }) => {
      const at = await loading();
      const { coordinator, registry, state, worker, deployment } = at;
      await end(at);
      await expect(deployment.ended).rejects.toMatchObject({ code: 'worker-lost' });
      expect(deployment.phases).toEqual(['waiting', 'profiling', 'planning', 'loading']);
      const phase = what === 'an undeploy' ? 'empty' : 'failed';
      expect(coordinator.group).toMatchObject({ phase, request: null, epoch: 5 });
      // Before the plan; at the end those that are still there.
      const released = what === 'the loss of a worker' ? [5] : [5, 5];
      await expect.poll(() => worker.released).toEqual(released);
      expect(await state.loadDeployment()).toBeNull();
      const other = await new LoadingWorker('b').joins(registry);
      if (what !== 'the loss of a worker') registry.deregister('a', 'a1', 'stopped');
      const next = follow(coordinator.deploy(request, 1_000, never));
      await eventually(10_000, 'the next one loads', () => other.loading === 1);
      await coordinator.undeploy(bundledModelId);
      await expect(next.ended).rejects.toThrow('undeployed');
    },
  );

  it('that is ended while its last ranks connect opens no streams, which nobody would close', async () => {
    const { coordinator, registry, openGroup } = await setUp();
    const worker = await new LoadingWorker('a', true).joins(registry);
    const { ended } = follow(coordinator.deploy(request, 1_000, never));
    await eventually(10_000, 'the worker connects', () => worker.connect !== null);
    const undeployed = coordinator.undeploy(bundledModelId);
    worker.connect?.();
    await undeployed;
    await expect(ended).rejects.toThrow('undeployed');
    expect(coordinator.group).toMatchObject({ phase: 'empty' });
    // On the same connection the answer of Connect comes before those of the next deployment.
    worker.connect = null;
    const next = follow(coordinator.deploy(request, 1_000, never));
    await eventually(10_000, 'the next one connects', () => worker.connect !== null);
    await coordinator.undeploy(bundledModelId);
    await expect(next.ended).rejects.toThrow('undeployed');
    expect(openGroup).not.toHaveBeenCalled();
  });
});

describe('a store that takes nothing', () => {
  const full = new HelsError('internal', 'the store cannot be written: ENOSPC');

  it('makes an undeploy fail, which holds all the same and is stored later', async () => {
    const { coordinator, registry, state } = await setUp();
    await state.saveDeployment(request);
    const worker = await new LoadingWorker('a').joins(registry);
    coordinator.restore(request, Number.POSITIVE_INFINITY);
    await eventually(10_000, 'the worker loads', () => worker.loading === 1);
    vi.spyOn(state, 'saveDeployment').mockRejectedValueOnce(full);
    await expect(coordinator.undeploy(bundledModelId)).rejects.toMatchObject({
      code: 'internal',
      message: expect.stringMatching(/undeployed, but .*ENOSPC.* would bring it back/),
    });
    expect(coordinator.group.phase).toBe('empty');
    expect(await state.loadDeployment()).not.toBeNull();
    await eventually(10_000, 'it is stored', async () => {
      coordinator.tick();
      return (await state.loadDeployment()) === null;
    });
  });

  it('is told to whoever deploys, before it is ready', async () => {
    const { coordinator, registry, state, openGroup } = await setUp();
    const worker = await new LoadingWorker('a', true).joins(registry);
    openGroup.mockReturnValue({
      warmUp: async () => nothingMeasured,
      attach: () => undefined,
      isAwaited: false,
      isProved: true,
      measured: () => null,
      proveIdle: () => undefined,
      close: async () => undefined,
    } as Partial<EngineGroup> as EngineGroup);
    vi.spyOn(state, 'saveDeployment').mockRejectedValueOnce(full);
    const events: DeployEvent[] = [];
    const read = async () => {
      for await (const event of coordinator.deploy(request, 1_000, never)) events.push(event);
    };
    const ended = read();
    await eventually(10_000, 'the worker connects', () => worker.connect !== null);
    worker.connect?.();
    await ended;
    expect(events.at(-1)?.ready).toBeDefined();
    expect(events.at(-2)?.progress).toMatchObject({
      phase: 'storing',
      message: expect.stringMatching(/ENOSPC.* would not outlast this controller/),
    });
  });
});

describe('what another controller served', () => {
  it('serves on over the workers that are there once no more of them come', async () => {
    const { coordinator, registry } = await setUp();
    const worker = await new LoadingWorker('a').joins(registry);
    coordinator.restore({ ...request, workersMin: 2 }, 1_000);
    const waiting = { phase: 'deploying', detail: 'waiting' };
    await expect.poll(() => coordinator.group, { timeout: 10_000 }).toMatchObject(waiting);
    await eventually(10_000, 'it loads', () => worker.loading === 1);
  });
});

it('a loop that fails as it is attached serves nothing: the attempt has failed, and the request waits for the next', async () => {
  const { coordinator, registry, openGroup, clock, log } = await setUp();
  const engine = new SwitchingEngine(clock, () => undefined);
  const metrics = new ServingMetrics(new Registry(), () => ({}) as never);
  const events = new ClusterEvents(clock, log);
  const tracker = new PredictionTracker(clock, events, { error: () => undefined });
  const open = openGroupWith({ engine, metrics, tracker, events, clock, log }, () => request);
  const overFakes: OpenEngineGroup = (loaded, ...rest) => {
    const ranks = loaded.workers.map(({ id }) => new FakeRank(id, 16));
    const workers = loaded.workers.map((worker, rank) => ({
      ...worker,
      client: { stub: stubOf(ranks[rank] as FakeRank) },
    }));
    return open({ ...loaded, workers } as unknown as typeof loaded, ...rest);
  };
  openGroup.mockImplementation((...group) => {
    const former = overFakes(group[0], group[1], () => undefined);
    former.attach();
    engine.generate(requestOf('waits', 3, 3), never);
    void former.close(new HelsError('worker-lost', 'gone'));
    vi.spyOn(Scheduler.prototype, 'schedule').mockImplementation(() => {
      throw new TypeError('no such thing');
    });
    return overFakes(...group);
  });
  const worker = await new LoadingWorker('a', true).joins(registry);
  coordinator.restore(request, Number.POSITIVE_INFINITY);
  await eventually(10_000, 'the worker connects', () => worker.connect !== null);
  worker.connect?.();
  await eventually(10_000, 'it is over', () => coordinator.group.phase !== 'deploying');
  expect(coordinator.group).toMatchObject({
    phase: 'waiting',
    detail: 'a fault of the controller: no such thing',
  });
  expect(coordinator.serving).toBeNull();
  expect([engine.serving, engine.held]).toEqual([null, 1]);
});
