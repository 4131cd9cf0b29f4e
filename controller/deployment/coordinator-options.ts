/** What the coordinator is given. */
import type { ChannelCredentials } from '@grpc/grpc-js';
import type { Clock } from '../../proto/base/clock.ts';
import type { Logger } from '../../proto/base/log.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { DeploymentRequest } from '../cluster/group.ts';
import type { ClusterEvents } from './cluster-events.ts';
import type { OpenEngineGroup } from './engine-group.ts';
import type { MeasurementStore } from './measurement-store.ts';
import type { MakePlan } from './plan-thread.ts';
import type { ReplanLog } from './replan-log.ts';
import type { WorkerRegistry } from './worker-registry.ts';

/** What outlives the process. */
export interface DeploymentStore {
  saveDeployment(request: DeploymentRequest | null): Promise<void>;
  savePlan(plan: ShardPlan__Output): Promise<void>;
  /** Of an epoch that may yet not begin: until it does, another plan may take its place. */
  savePlanAhead(plan: ShardPlan__Output): Promise<void>;
}

export interface CoordinatorOptions {
  term: number;
  /** Epochs go on from here. */
  lastEpoch: number;
  registry: WorkerRegistry;
  store: DeploymentStore & MeasurementStore;
  /** While another model is served. */
  makePlan: MakePlan;
  openGroup: OpenEngineGroup;
  replans: ReplanLog;
  events: ClusterEvents;
  credentials: ChannelCredentials;
  clock: Clock;
  log: Logger;
}
