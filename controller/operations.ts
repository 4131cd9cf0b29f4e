import { kvPolicyOf } from '../proto/domain/kv-policy.ts';
import type { DeployEvent } from '../proto/gen/hels/v1/DeployEvent.ts';
import type { DeployRequest__Output } from '../proto/gen/hels/v1/DeployRequest.ts';
import type { DrainRequest__Output } from '../proto/gen/hels/v1/DrainRequest.ts';
import type { PlanningWorkload__Output } from '../proto/gen/hels/v1/PlanningWorkload.ts';
import type { PlanReport } from '../proto/gen/hels/v1/PlanReport.ts';
import type { ProfileWorkersEvent } from '../proto/gen/hels/v1/ProfileWorkersEvent.ts';
import type { ProfileWorkersRequest__Output } from '../proto/gen/hels/v1/ProfileWorkersRequest.ts';
import type { ReplanEvent } from '../proto/gen/hels/v1/ReplanEvent.ts';
import type { ReplanRequest__Output } from '../proto/gen/hels/v1/ReplanRequest.ts';
import type { Status } from '../proto/gen/hels/v1/Status.ts';
import type { OperationsPort } from './api/grpc/hels-service.ts';
import type { DeploymentRequest } from './cluster/group.ts';
import type { ControllerConfig } from './config.ts';
import type { Coordinator } from './deployment/coordinator.ts';
import type { DrainService } from './deployment/drain-service.ts';
import type { ProfileService } from './deployment/profile-service.ts';
import type { ReplanService } from './deployment/replan-service.ts';
import type { StatusView } from './status.ts';

/** Without what the wire adds to tell that an optional field is there. */
function withoutMark(workload: PlanningWorkload__Output | null) {
  if (workload === null) return null;
  const { _allowRemoteKv: _, ...given } = workload;
  return given;
}

/** What the gRPC API does besides generating: thin, over the coordinator and the status view. */
export class OperationsService implements OperationsPort {
  readonly #coordinator: Coordinator;
  readonly #view: StatusView;
  readonly #profiles: ProfileService;
  readonly #replanner: ReplanService;
  readonly #drains: DrainService;

  constructor(
    coordinator: Coordinator,
    view: StatusView,
    profiles: ProfileService,
    replanner: ReplanService,
    drains: DrainService,
  ) {
    this.#coordinator = coordinator;
    this.#view = view;
    this.#profiles = profiles;
    this.#replanner = replanner;
    this.#drains = drains;
  }

  deploy(request: DeployRequest__Output, signal: AbortSignal): AsyncIterable<DeployEvent> {
    const { modelPath, modelId, policy, numerics, quantization } = request;
    const { workersMin, ranks } = request;
    const workload = withoutMark(request.workload);
    const format = { numerics, quantization };
    const asked = { modelPath, modelId, policy, ...format, workersMin, workload, ranks };
    const { noPrefixCache, noAutoReplan } = request;
    // The edge has refused unknown names.
    const kvPolicy = kvPolicyOf(request.kvPolicy) ?? 'evict';
    const choices = { prefixCache: !noPrefixCache, autoReplan: !noAutoReplan, kvPolicy };
    const deployment = { ...asked, ...choices };
    return this.#coordinator.deploy(deployment, request.workersTimeoutMs, signal);
  }

  /** Goes on to its end when the caller leaves: half a re-plan is of no use to anybody. */
  replan({ policy, workload, ranks }: ReplanRequest__Output): AsyncIterable<ReplanEvent> {
    return this.#replanner.run({ policy, workload: withoutMark(workload), ranks });
  }

  /** Goes on to its end when the caller leaves, as a re-plan. */
  drain({ workerId, undo }: DrainRequest__Output): AsyncIterable<ReplanEvent> {
    return undo ? this.#drains.undo(workerId) : this.#drains.drain(workerId);
  }

  profileWorkers(
    request: ProfileWorkersRequest__Output,
    signal: AbortSignal,
  ): AsyncIterable<ProfileWorkersEvent> {
    return this.#profiles.run(request.modelPath, request.refresh, signal);
  }

  undeploy(modelId: string): Promise<void> {
    return this.#coordinator.undeploy(modelId);
  }

  status(): Status {
    return this.#view.status();
  }

  plan(): PlanReport {
    return this.#coordinator.report();
  }

  /** The deployment of the configuration file, as a request. */
  configured(deployment: ControllerConfig['deployment']): DeploymentRequest | null {
    if (deployment === null) return null;
    const { model, name, policy, numerics, quantization, workers } = deployment;
    const { prefixCache, autoReplan, kvPolicy } = deployment;
    // Zeroes: what a plan is made for when nobody says.
    const { sequences = 0, contextTokens = 0, prefillChunk = 0, allowRemoteKv } = deployment;
    const workersMin = workers;
    return {
      modelPath: model,
      modelId: name,
      policy,
      numerics,
      quantization,
      workersMin,
      workload: { sequences, contextTokens, prefillChunk, outputTokens: 0, allowRemoteKv },
      ranks: [],
      prefixCache,
      autoReplan,
      kvPolicy,
    };
  }
}
