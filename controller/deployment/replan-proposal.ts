/** What a re-plan would be: the served model planned anew from the lines as refined in service. Pure; whoever proposes makes the plan. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import type { PlanInput } from '../../proto/domain/plan.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { DeploymentRequest } from '../cluster/group.ts';
import { plannedDecodeSeconds } from '../planner/planned-shares.ts';
import type { ProfiledDevice } from '../profiler/plan-input.ts';
import { type LoadedGroup, policyOf, workloadOf } from './deployment-run.ts';
import { type EngineSizes, engineSizesOf, largerSizes } from './engine-sizes.ts';
import type { GroupWorker } from './group-worker.ts';
import { deviceKindsOf } from './kv-migration.ts';
import type { MadePlan, PlanRequest } from './make-plan.ts';
import { plannedRanksOf } from './plan-report.ts';
import { reservedAnew } from './reserved-bytes.ts';

/** What is to change; empty and zero: as deployed. */
export interface ReplanWish {
  policy: string;
  workload: DeploymentRequest['workload'];
  ranks: DeploymentRequest['ranks'];
  /** Fewer sequences at once than it is for are better than no plan; absent: no. */
  settles?: boolean;
}

export interface Proposal {
  /** Of the deployment, with the wish in it. */
  readonly request: DeploymentRequest;
  readonly planRequest: PlanRequest;
  /** All that a plan may use from then on, with the lines as fitted. */
  readonly fitted: readonly ProfiledDevice[];
  readonly made: MadePlan;
  /** Those of the deployment, as they are reached now. */
  readonly candidates: readonly GroupWorker[];
  /** By rank; all of them answer. */
  readonly workers: readonly GroupWorker[];
  /** Nothing would change. */
  readonly equal: boolean;
  /** A decode step of the workload by the refined lines, with the split as it is and with the new one. */
  readonly currentSeconds: number;
  readonly plannedSeconds: number;
}

export interface Proposing {
  readonly loaded: LoadedGroup;
  readonly request: DeploymentRequest;
  readonly wish: ReplanWish;
  /** Those that may be used now. */
  readonly available: readonly GroupWorker[];
  /** The lines as refined in service. */
  readonly refine: (devices: readonly ProfiledDevice[]) => ProfiledDevice[];
}

/** A re-plan but for its plan, which is to be made of `planRequest`. */
export interface ReplanDraft extends Pick<Proposal, 'request' | 'planRequest' | 'fitted'> {
  readonly proposing: Proposing;
}

/** The deployment as it is to be from now on. */
export function wishedRequest(request: DeploymentRequest, wish: ReplanWish): DeploymentRequest {
  const { policy, workload, ranks } = wish;
  const sizes = { sequences: 0, contextTokens: 0, prefillChunk: 0, outputTokens: 0 };
  // A choice that is named counts either way, a size only when it is one.
  const given = Object.entries(workload ?? {}).filter(
    ([, value]) => typeof value === 'boolean' || Number(value) > 0,
  );
  return {
    ...request,
    ...(policy === '' ? {} : { policy, ranks: [] }),
    ...(ranks.length === 0 ? {} : { ranks }),
    ...(given.length === 0
      ? {}
      : { workload: { ...sizes, ...request.workload, ...Object.fromEntries(given) } }),
  };
}

/** What decides where everything lies, and how much of it runs at once. */
function placesOf({ ranks, ...plan }: ShardPlan__Output) {
  const { kvBlocks, kvParkedBlocks, kvLoans, stepTokensMax, sequencesMax } = plan;
  const places = ranks.map(({ workerId, headGroups, ffnColumns, vocabRows, kvDeviceBlocks }) => [
    workerId,
    headGroups,
    ffnColumns,
    vocabRows,
    kvDeviceBlocks,
  ]);
  return JSON.stringify([
    places,
    [kvBlocks, kvParkedBlocks, plan.kvBlockTokens, kvLoans],
    [stepTokensMax, sequencesMax],
  ]);
}

/** Length of the slots that KV is given out in; 0: in no slots. */
const slotTokensOf = (request: DeploymentRequest, model: ModelSpec) =>
  request.kvPolicy === 'slots' ? workloadOf(request, model).contextTokens : 0;

type Served = Pick<LoadedGroup, 'planRequest' | 'candidates'>;

/** Devices as they are with engines of other sizes, or once KV may, or may no longer, lie on other ranks. */
function withReserved(
  { planRequest, candidates }: Served,
  devices: readonly ProfiledDevice[],
  sizes: EngineSizes,
  lends: boolean,
) {
  const formerly = planRequest.workload.allowRemoteKv === true;
  const former = { ...planRequest, lends: formerly, ranks: planRequest.devices.length };
  const next = { ...former, ...sizes, lends, ranks: devices.length };
  return reservedAnew(devices, deviceKindsOf(candidates), former, next);
}

/** Those that plans choose from, and those that only the split by hand names. */
function devicesOf(
  { planRequest, leftOut }: Pick<LoadedGroup, 'planRequest' | 'leftOut'>,
  ranks: DeploymentRequest['ranks'],
): ProfiledDevice[] {
  const known = new Set(planRequest.devices.map(({ id }) => id));
  const named = new Set(ranks.map(({ workerId }) => workerId));
  return [...planRequest.devices, ...leftOut.filter(({ id }) => named.has(id) && !known.has(id))];
}

/** Throws config-invalid for a worker that is there and was never measured for this group. */
function requireCandidates(
  ranks: DeploymentRequest['ranks'],
  available: Proposing['available'],
  planned: readonly ProfiledDevice[],
): void {
  const known = new Set(planned.map(({ id }) => id));
  const stranger = available.find(
    ({ id }) => !known.has(id) && ranks.some(({ workerId }) => workerId === id),
  );
  if (stranger === undefined) return;
  throw new HelsError(
    'config-invalid',
    `ranks: worker '${stranger.id}' takes part from the next deployment on; name others, or deploy with this split (helsctl deploy --ranks)`,
    { field: 'ranks' },
  );
}

/** Candidates that answer, by id. One that was lost and came back has another channel, its old one is closed; started anew it is another worker. */
function reachedNow({ loaded, available }: Pick<Proposing, 'loaded' | 'available'>) {
  const known = new Map(loaded.candidates.map(({ id, incarnation }) => [id, incarnation]));
  const same = available.filter(({ id, incarnation }) => known.get(id) === incarnation);
  return new Map(same.map((worker) => [worker.id, worker]));
}

/** `fitted`: all that a plan may use from then on, with the lines as fitted. */
function planRequestOf(
  { loaded, refine, wish: { settles = false } }: Proposing,
  request: DeploymentRequest,
  there: ReadonlySet<string>,
): { planRequest: PlanRequest; fitted: ProfiledDevice[] } {
  const former = loaded.planRequest;
  const workload = workloadOf(request, former.model);
  const lends = workload.allowRemoteKv === true;
  // The load of a moment may be light, and requests that run keep their slots.
  const sizes = largerSizes(former, engineSizesOf(workload));
  const fitted = withReserved(loaded, devicesOf(loaded, request.ranks), sizes, lends);
  const planRequest = {
    ...former,
    ...sizes,
    epoch: former.epoch + 1,
    devices: refine(fitted.filter(({ id }) => there.has(id))),
    workload,
    policy: policyOf(request),
    manual: request.ranks,
    settles,
  };
  return { planRequest, fitted };
}

/** Throws config-invalid as a deployment does. */
export function draftReplan(proposing: Proposing): ReplanDraft {
  const request = wishedRequest(proposing.request, proposing.wish);
  const there = new Set(reachedNow(proposing).keys());
  const { planRequest, fitted } = planRequestOf(proposing, request, there);
  requireCandidates(request.ranks, proposing.available, planRequest.devices);
  return { proposing, request, planRequest, fitted };
}

export function proposalOf(draft: ReplanDraft, made: MadePlan): Proposal {
  const { proposing, request, planRequest, fitted } = draft;
  const { loaded } = proposing;
  const reached = reachedNow(proposing);
  const workers = made.shardPlan.ranks.flatMap(({ workerId }) => reached.get(workerId) ?? []);
  const candidates = loaded.candidates.map((one) => reached.get(one.id) ?? one);
  return {
    request,
    planRequest,
    fitted,
    made,
    candidates,
    workers,
    equal:
      placesOf(made.shardPlan) === placesOf(loaded.shardPlan) &&
      slotTokensOf(request, planRequest.model) ===
        slotTokensOf(proposing.request, planRequest.model),
    currentSeconds: secondsOf(made.input, loaded.shardPlan),
    plannedSeconds: secondsOf(made.input, made.shardPlan),
  };
}

/** Both splits at the same load and lines; Infinity when the split needs a device that is not there. */
function secondsOf(input: PlanInput, plan: ShardPlan__Output): number {
  const ranks = plannedRanksOf(plan);
  const known = new Set(input.devices.map(({ id }) => id));
  if (ranks.some(({ device }) => !known.has(device))) return Number.POSITIVE_INFINITY;
  return plannedDecodeSeconds(input, ranks);
}
