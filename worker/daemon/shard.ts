/** The worker's one shard: does what shard-state.ts allows, and owns the engine. */
import { formatBytes } from '../../proto/domain/device.ts';
import { HelsError } from '../../proto/domain/errors.ts';
import { hostBlocksOf } from '../../proto/domain/kv-residency.ts';
import { kvBytesPerToken } from '../../proto/domain/model-spec.ts';
import type { ConnectRequest__Output } from '../../proto/gen/hels/v1/ConnectRequest.ts';
import type { ConnectResponse } from '../../proto/gen/hels/v1/ConnectResponse.ts';
import type { PrepareRequest__Output } from '../../proto/gen/hels/v1/PrepareRequest.ts';
import type { PrepareResult } from '../../proto/gen/hels/v1/PrepareResult.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { StepRequest__Output } from '../../proto/gen/hels/v1/StepRequest.ts';
import type { StepResponse } from '../../proto/gen/hels/v1/StepResponse.ts';
import type { EngineOptions } from '../binding/engine-types.ts';
import type { Engine, LoadRequest } from '../binding/native.ts';
import { NativeError } from '../binding/native.ts';
import { compareFences, type Fence, showFence } from './fence.ts';
import { migrationOf } from './migration.ts';
import {
  applyShardEvent,
  initialShardState,
  type ShardEvent,
  type ShardState,
} from './shard-state.ts';
import {
  checkedResidency,
  fenceOf,
  kvPlacementOf,
  modelSpecOf,
  numericsOf,
  planOf,
  previousOf,
  required,
  shardSpecOf,
  stepBatchOf,
  stepErrorOf,
  stepResponseOf,
} from './wire.ts';

export interface ShardDependencies {
  workerId: string;
  /** Where the other ranks reach this one's collective. */
  collectiveHost: string;
  engineDevice: Pick<EngineOptions, 'device' | 'multiprocessors'>;
  threads: number;
  speed: number;
  /** Bytes this worker may use now for weights, KV and scratch, if what takes `heldBytes` now were gone. */
  memoryFreeBytes(heldBytes: number): number;
  /** Budget of host memory for parked KV. */
  hostBytes: number;
  loadEngine(request: LoadRequest): Promise<Engine>;
  /** Resolves when nothing is measured here; what is, ends at its next point once a shard is prepared. */
  measuringEnded(): Promise<void>;
  modelDigest(directory: string): Promise<string>;
  /** Monotonic. */
  nowMs(): number;
}

/** The engine of one epoch. `ended` aborts, with the reason, when the epoch is over on this worker. */
interface Hold {
  fence: Fence;
  engine: Engine;
  plan: ShardPlan__Output;
  rank: number;
  /** KV of the epoch before is in the engine, for a migration. */
  kvKept: boolean;
  /** And so is what it held of others' heads. */
  kvLoansKept: boolean;
  ended: AbortController;
}

/** What a Prepare has to do. */
interface Loading {
  fence: Fence;
  plan: ShardPlan__Output;
  load: LoadRequest;
  /** Of the epoch before, ended, whose engine is closed or taken over. */
  predecessor: Hold | null;
}

export class Shard {
  readonly #dependencies: ShardDependencies;
  #state: ShardState = initialShardState;
  #hold: Hold | null = null;
  /** Loading and closing take turns, so that two epochs never hold memory together. */
  #turn: Promise<unknown> = Promise.resolve();
  #stepsFinished = 0;

  constructor(dependencies: ShardDependencies) {
    this.#dependencies = dependencies;
  }

  get state(): ShardState {
    return this.#state;
  }

  /** Steps computed in this life of the process: the heartbeat's progress counter. */
  get stepsFinished(): number {
    return this.#stepsFinished;
  }

  /** Throws what forbids measuring now. */
  refuseProfile(fence: Fence): void {
    this.#apply({ type: 'profile-requested', fence });
  }

  async prepare(
    request: PrepareRequest__Output,
    onProgress: (message: string) => void,
  ): Promise<PrepareResult> {
    const fence = fenceOf(request);
    const plan = planOf(request, fence);
    const load = this.#loadRequest(plan, request.rank);
    this.#apply({ type: 'prepare-requested', fence, previous: previousOf(request) });
    const reason = `superseded by fence ${showFence(fence)}`;
    const predecessor = this.#state.adopting === null ? null : this.#retire('stale-fence', reason);
    this.#end('stale-fence', reason);
    return this.#inTurn(async () => {
      try {
        return await this.#load({ fence, plan, load, predecessor }, onProgress);
      } catch (error) {
        this.#apply({ type: 'shard-ended', fence });
        await predecessor?.engine.close();
        throw error;
      }
    });
  }

  /** Forms the collective and migrates KV. A failure ends the epoch here: half a collective is of no use. */
  async connect(request: ConnectRequest__Output): Promise<ConnectResponse> {
    const fence = fenceOf(request);
    const { collectiveAddresses, deadlineMs } = request;
    this.#apply({ type: 'connect-requested', fence });
    const hold = required(this.#hold, 'shard');
    const { engine, plan } = hold;
    if (collectiveAddresses.length !== plan.ranks.length) {
      throw new HelsError(
        'request-invalid',
        `collective_addresses has ${collectiveAddresses.length} entries; the plan has ${plan.ranks.length} ranks`,
        { field: 'collective_addresses' },
      );
    }
    const migration =
      request.migration === null ? null : migrationOf(request.migration, hold, deadlineMs);
    try {
      if (plan.ranks.length > 1) await engine.connect(collectiveAddresses, deadlineMs);
      // A newer Prepare may have taken over the engine.
      this.#apply({ type: 'connect-requested', fence });
      const { seconds, bytesReceived } = await engine.migrateKv(migration);
      hold.kvKept = false;
      hold.kvLoansKept = false;
      const { fingerprint } = await engine.report();
      this.#apply({ type: 'connect-finished', fence });
      return { fingerprint, migrationSeconds: seconds, migrationBytes: bytesReceived };
    } catch (error) {
      this.#endEpoch(fence, 'worker-lost', `the collective did not form: ${String(error)}`);
      throw error;
    }
  }

  /** Accepts a step (or throws why not) and resolves to its response; never rejects. Call `answered` when the response has left. */
  submit(request: StepRequest__Output): Promise<StepResponse> {
    const fence = fenceOf(request);
    const { step } = request;
    const batch = stepBatchOf(request);
    this.#apply({ type: 'step-received', fence, step });
    const { engine } = required(this.#hold, 'shard');
    return engine.step(batch).then(
      (result) => {
        this.#stepsFinished += 1;
        return stepResponseOf(fence, step, result);
      },
      (error: unknown) => {
        // A batch that does not fit the model was refused before any work; everything else leaves KV undefined.
        const refused = error instanceof NativeError && error.nativeCode === 'shape-invalid';
        if (!refused) this.#endEpoch(fence, 'worker-lost', `step ${step} failed: ${String(error)}`);
        return { fence, step, error: stepErrorOf(error, batch) };
      },
    );
  }

  answered(fence: Fence): void {
    this.#apply({ type: 'step-answered', fence });
  }

  /** Aborts, with the reason, when the epoch of `fence` ends on this worker; null when it has ended. */
  endedSignal(fence: Fence): AbortSignal | null {
    return this.#holds(fence)?.ended.signal ?? null;
  }

  /** The controller's stream broke with steps in flight: its epoch is over. */
  abandon(fence: Fence): void {
    this.#endEpoch(fence, 'cancelled', 'the step stream closed with steps in flight');
  }

  async release(fence: Fence): Promise<void> {
    this.#apply({ type: 'release-requested', fence });
    this.#end('stale-fence', `released by fence ${showFence(fence)}`);
    await this.#turn;
  }

  /** Accepts nothing more. */
  beginDrain(): void {
    this.#apply({ type: 'drain-requested' });
  }

  /** Ends what is held; steps still in flight fail. Resolves when the memory is free. */
  async close(): Promise<void> {
    if (this.#hold !== null)
      this.#endEpoch(this.#hold.fence, 'draining', 'this worker is stopping');
    await this.#turn;
  }

  #apply(event: ShardEvent): void {
    this.#state = applyShardEvent(this.#state, event);
  }

  #holds(fence: Fence): Hold | null {
    return this.#hold !== null && compareFences(this.#hold.fence, fence) === 0 ? this.#hold : null;
  }

  #endEpoch(fence: Fence, code: HelsError['code'], reason: string): void {
    this.#apply({ type: 'shard-ended', fence });
    if (this.#holds(fence) !== null) this.#end(code, reason);
  }

  #end(code: HelsError['code'], reason: string): void {
    const hold = this.#retire(code, reason);
    if (hold !== null) void this.#inTurn(() => hold.engine.close());
  }

  /** Ends the epoch, but not its engine. */
  #retire(code: HelsError['code'], reason: string): Hold | null {
    const hold = this.#hold;
    if (hold === null) return null;
    this.#hold = null;
    hold.engine.abort();
    hold.ended.abort(new HelsError(code, `${showFence(hold.fence)} ended: ${reason}`));
    return hold;
  }

  #inTurn<Value>(work: () => Promise<Value>): Promise<Value> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  #loadRequest(plan: ShardPlan__Output, rank: number): LoadRequest {
    const { engineDevice, threads, speed, workerId } = this.#dependencies;
    return {
      directory: plan.modelPath,
      model: modelSpecOf(plan.model),
      shard: shardSpecOf(plan, rank, workerId),
      options: {
        ...engineDevice,
        threads,
        speed,
        memoryBytes: 0,
        numerics: numericsOf(plan),
        kvBlockTokens: plan.kvBlockTokens,
        kvBlocks: plan.kvBlocks,
        ...kvPlacementOf(plan, rank),
        stepTokensMax: plan.stepTokensMax,
        sequencesMax: plan.sequencesMax,
        corruption: null,
      },
    };
  }

  async #load(
    { fence, plan, load, predecessor }: Loading,
    onProgress: (message: string) => void,
  ): Promise<PrepareResult> {
    const startMs = this.#dependencies.nowMs();
    this.#refuseSuperseded(fence);
    onProgress(`checking the files of ${plan.modelPath}`);
    await this.#checkDigest(plan);
    // The buffers of a point are memory that the plan counts on.
    await this.#dependencies.measuringEnded();
    const engine = await this.#engineFor(fence, load, plan, predecessor, onProgress);
    try {
      const { ranks, rank } = load.shard;
      const host = this.#dependencies.collectiveHost;
      const collectiveAddress = ranks > 1 ? await engine.openCollective(host) : '';
      const report = await engine.report();
      this.#apply({ type: 'prepare-finished', fence });
      const kept = { kvKept: report.kvKept, kvLoansKept: report.kvLoansKept };
      this.#hold = { fence, engine, plan, rank, ...kept, ended: new AbortController() };
      return {
        weightBytesLoaded: report.weightBytesLoaded,
        weightBytesAdopted: report.weightBytesAdopted,
        kvBytes: report.kvBytes,
        ...kept,
        scratchBytes: report.scratchBytes,
        collectiveAddress,
        fingerprint: report.fingerprint,
        seconds: (this.#dependencies.nowMs() - startMs) / 1000,
      };
    } catch (error) {
      await engine.close();
      throw error;
    }
  }

  async #checkDigest(plan: ShardPlan__Output): Promise<void> {
    const digest = await this.#dependencies.modelDigest(plan.modelPath);
    if (digest === plan.modelDigest) return;
    throw new HelsError(
      'digest-mismatch',
      `${plan.modelPath} on worker '${this.#dependencies.workerId}' has digest ${digest}; the plan was made for ${plan.modelDigest}; copy the same model files to every host`,
      { field: 'model_digest' },
    );
  }

  /** Checks memory, then loads: in place of the predecessor's engine where that can give something, else once it is gone. */
  async #engineFor(
    fence: Fence,
    load: LoadRequest,
    plan: ShardPlan__Output,
    predecessor: Hold | null,
    onProgress: (message: string) => void,
  ): Promise<Engine> {
    const gives = predecessor !== null && predecessor.plan.modelDigest === plan.modelDigest;
    if (!gives) await predecessor?.engine.close();
    const held = gives ? (await predecessor.engine.report()).residentBytes : 0;
    const memoryBytes = this.#memoryFor(plan, load.shard.rank, held);
    this.#refuseHostBytes(plan, load);
    this.#refuseSuperseded(fence);
    onProgress(gives ? 'loading the weights that changed' : 'loading weights');
    const request = { ...load, options: { ...load.options, memoryBytes } };
    if (!gives) return this.#dependencies.loadEngine(request);
    await predecessor.engine.reload(request);
    return predecessor.engine;
  }

  /** A pure check: the load of this fence may still become the held shard. */
  #refuseSuperseded(fence: Fence): void {
    applyShardEvent(this.#state, { type: 'prepare-finished', fence });
  }

  /** The bytes the engine may use; throws memory-exceeded before anything is allocated when the plan wants more. */
  #memoryFor(plan: ShardPlan__Output, rank: number, heldBytes: number): number {
    const free = this.#dependencies.memoryFreeBytes(heldBytes);
    const own = plan.ranks.find((candidate) => candidate.rank === rank);
    const wanted = (own?.weightBytes ?? 0) + (own?.kvBytes ?? 0);
    if (wanted > free) {
      throw new HelsError(
        'memory-exceeded',
        `rank ${rank} needs ${formatBytes(wanted)} for weights and KV; worker '${this.#dependencies.workerId}' has ${formatBytes(free)}; free memory, raise --device memory=, or plan again`,
        { field: 'memory' },
      );
    }
    return free;
  }

  /** Throws memory-exceeded when parked KV of this rank's heads needs more host memory than the operator gave. */
  #refuseHostBytes(plan: ShardPlan__Output, { model, shard }: LoadRequest): void {
    const { hostBytes, workerId } = this.#dependencies;
    const headGroups = shard.headGroups.end - shard.headGroups.begin;
    const blockBytes = plan.kvBlockTokens * kvBytesPerToken(model, headGroups);
    const wanted = hostBlocksOf(checkedResidency(plan), shard.rank) * blockBytes;
    if (wanted <= hostBytes) return;
    throw new HelsError(
      'memory-exceeded',
      `rank ${shard.rank} needs ${formatBytes(wanted)} of host memory for ${plan.kvParkedBlocks} parked KV blocks; worker '${workerId}' has ${formatBytes(hostBytes)}; raise --device host=, or plan again`,
      { field: 'host' },
    );
  }
}
