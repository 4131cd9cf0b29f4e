/**
 * One attempt to bring running requests over to another plan: load while they still run as far as can be, stop at a step boundary, load
 * the changed slices, form the collective, move KV or give it up, go on. Every step may throw HelsError; the requests then wait.
 */
import type { Fence__Output } from '../../proto/gen/hels/v1/Fence.ts';
import type { PrepareResult__Output } from '../../proto/gen/hels/v1/PrepareResult.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { LoadedGroup } from './deployment-run.ts';
import type { EngineGroup } from './engine-group.ts';
import type { GroupWorker, Progress } from './group-worker.ts';
import {
  deviceKindsOf,
  keptKvOf,
  keptRoomOf,
  migrationOf,
  survivalOf,
  survivorsOf,
} from './kv-migration.ts';
import { connectRanks, type HeldEpochs, loadRatesOf, prepareRanks } from './load-plan.ts';
import type { PlanRequest } from './make-plan.ts';
import { numericsClassOf } from './numerics.ts';

export interface MoveTarget {
  readonly shardPlan: ShardPlan__Output;
  readonly planRequest: PlanRequest;
  /** With the lines as fitted. */
  readonly input: LoadedGroup['input'];
  readonly candidates: GroupWorker[];
  /** By rank. */
  readonly workers: GroupWorker[];
}

export interface MoveRequest {
  readonly fence: Fence__Output;
  readonly from: LoadedGroup;
  readonly to: MoveTarget;
  /** KV may go on living: the old epoch's ranks still hold it. */
  readonly mayMigrate: boolean;
  /** Kept up to date, also when the move fails. */
  readonly held: HeldEpochs;
  readonly engine: EngineGroup;
}

export interface MovePorts {
  /** Reports a phase; throws when this attempt has been superseded. */
  phase(name: string): Progress;
  /** All steps of the old epoch are answered. */
  paused(): void;
  nowMs(): number;
}

export interface Moved {
  readonly loaded: LoadedGroup;
  readonly kv: 'migrated' | 'replayed';
  readonly migrationSeconds: number;
  readonly migrationBytes: number;
  /** Requests brought over, and their positions to be computed again. */
  readonly sequences: number;
  readonly replayedTokens: number;
}

function survival({ from, to, mayMigrate }: MoveRequest, prepared: PrepareResult__Output[]) {
  if (!mayMigrate) return 'none';
  const kinds = deviceKindsOf([...from.workers, ...to.workers]);
  const before = survivalOf(from.shardPlan, to.shardPlan, kinds);
  return survivorsOf(before, from.shardPlan, to.shardPlan, prepared);
}

export async function moveGroup(request: MoveRequest, ports: MovePorts): Promise<Moved> {
  const { fence, from, to, engine } = request;
  const { shardPlan, workers } = to;
  ports.phase('pausing')('the steps under way are answered first', 0);
  await engine.pause();
  ports.paused();

  const prepared = await prepareRanks(
    workers,
    shardPlan,
    fence,
    ports.phase('loading'),
    request.held,
  );
  const survives = survival(request, prepared);
  const migrates = survives !== 'none';
  const held = engine.kvInUse();
  const room = keptRoomOf(held, from.shardPlan, shardPlan, survives);
  const kept = keptKvOf(held, room, from.shardPlan.kvBlockTokens);
  const migration = migrates ? migrationOf(from.shardPlan, shardPlan, kept, survives) : null;
  ports.phase('connecting')(
    `forming the collective of ${workers.length} ranks${migrates ? ' and moving KV' : ''}`,
    0,
  );
  const startMs = ports.nowMs();
  const connected = await connectRanks(workers, shardPlan, fence, prepared, migration);
  const connectSeconds = (ports.nowMs() - startMs) / 1000 - connected.migrationSeconds;
  const loaded: LoadedGroup = {
    ...from,
    ...to,
    prepared,
    connectSeconds,
    loadRates: loadRatesOf(workers, prepared, from.loadRates),
    fingerprints: connected.fingerprints,
    numericsClass: numericsClassOf(shardPlan, connected.fingerprints),
  };
  ports.phase('continuing')('the first step goes through every rank', 0);
  const replayedTokens = await engine.rebase(loaded, room);
  return {
    loaded,
    kv: migrates ? 'migrated' : 'replayed',
    migrationSeconds: connected.migrationSeconds,
    migrationBytes: connected.migrationBytes,
    sequences: kept.sequences.length,
    replayedTokens,
  };
}
