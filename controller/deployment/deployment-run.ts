/** One attempt to bring a model up under one epoch: files, profile, plan, load, connect, warm up. Every step may throw HelsError. */
import { HelsError } from '../../proto/domain/errors.ts';
import { gpuLoanBlockTokens, loanBlockTokens } from '../../proto/domain/kv-residency.ts';
import type { ModelSpec } from '../../proto/domain/model-spec.ts';
import { type LinkLine, type PlanPolicy, planPolicies } from '../../proto/domain/plan.ts';
import { workloadMax } from '../../proto/domain/workload.ts';
import type { Fence__Output } from '../../proto/gen/hels/v1/Fence.ts';
import type { PrepareResult__Output } from '../../proto/gen/hels/v1/PrepareResult.ts';
import type { ShardPlan__Output } from '../../proto/gen/hels/v1/ShardPlan.ts';
import type { DeploymentRequest } from '../cluster/group.ts';
import type { ProfiledDevice } from '../profiler/plan-input.ts';
import { applicable, type Corrections, correctDevices } from './corrections.ts';
import { type EngineSizes, engineSizesOf, kvBlockTokens } from './engine-sizes.ts';
import type { GroupWorker, Progress } from './group-worker.ts';
import { connectRanks, loadRatesOf, prepareRanks, releaseRanks } from './load-plan.ts';
import { type MadePlan, makePlan, type PlanRequest } from './make-plan.ts';
import { type NumericsClass, numericsClassOf } from './numerics.ts';
import { parkingNote, settledNote } from './parking-note.ts';
import { probeLinks } from './probe-links.ts';
import { type MeasuringPorts, type ProfileRun, profileWorkers } from './profile-workers.ts';
import { type ReservedFor, reservedBytesOf } from './reserved-bytes.ts';
import type { ServedFiles } from './served-files.ts';
import { strayTokensNote } from './stray-tokens-note.ts';

/** What a plan is made for when nobody says: a handful of chats at once. */
const defaultWorkload = {
  sequences: 8,
  contextTokens: 256,
  prefillChunk: 256,
  outputTokens: 128,
} as const;

export interface RunPorts extends MeasuringPorts {
  /** Reports a phase; throws when this attempt has been superseded. */
  phase(name: string): Progress;
  /** Alive workers, waiting for `count` of them. */
  workers(count: number): Promise<GroupWorker[]>;
  /** They do not answer: the next that `workers` gives are others. */
  unreachable(workers: readonly GroupWorker[]): void;
  /** Told as soon as the plan says who takes part. */
  membersChosen(workers: readonly GroupWorker[]): void;
  savePlan(plan: ShardPlan__Output): Promise<void>;
  /** Nobody asked for this deployment just now: it follows a loss, or another controller. */
  readonly unattended: boolean;
}

/** A group whose weights are loaded and whose collective stands; not yet warmed up. */
export interface LoadedGroup extends MadePlan {
  /** Those that the plan could choose from, and those that it chose, by rank. */
  candidates: GroupWorker[];
  workers: GroupWorker[];
  prepared: PrepareResult__Output[];
  /** Weights from files, by worker id: bytes a second of its last loading that read any. */
  loadRates: ReadonlyMap<string, number>;
  /** Forming the collective. */
  connectSeconds: number;
  /** What the plan was made from; a re-plan starts here. */
  planRequest: PlanRequest;
  profiles: Map<string, ProfileRun>;
  /** What the lines were measured for: of a newcomer the same are wanted, whatever a re-plan has made of the sizes. */
  profiledSizes: EngineSizes;
  /** Decode seconds in service / by the profile's lines, by worker id, as the trial before has shown; empty without one. */
  trialRatios: ReadonlyMap<string, number>;
  /** Devices that the trial before has found to be of no use: plans choose from the others, a split by hand may name them. */
  leftOut: readonly ProfiledDevice[];
  fingerprints: string[];
  numericsClass: NumericsClass;
  /** Of the files that it was loaded from. */
  weightsDigest: string;
}

export function policyOf(request: Pick<DeploymentRequest, 'policy'>): PlanPolicy {
  const policy = request.policy === '' ? 'hels' : request.policy;
  const known = planPolicies.find((candidate) => candidate === policy);
  if (known === undefined) {
    throw new HelsError(
      'config-invalid',
      `policy: '${policy}' is not one of ${planPolicies.join(', ')}`,
      {
        field: 'policy',
      },
    );
  }
  return known;
}

const choosingPolicies: ReadonlySet<PlanPolicy> = new Set(['hels', 'optimal']);

/** They find a split wherever there is one, and may leave devices out: what is learnt in service can change what they choose. */
export function choosesFreely(request: Pick<DeploymentRequest, 'policy' | 'ranks'>): boolean {
  return request.ranks.length === 0 && choosingPolicies.has(policyOf(request));
}

/** A deployment that was stored when larger loads were allowed is for the largest. */
export function workloadOf(request: Pick<DeploymentRequest, 'workload'>, model: ModelSpec) {
  const given = request.workload;
  const pick = (value: number | undefined, fallback: number) => (value ? value : fallback);
  const contextTokens = pick(given?.contextTokens, defaultWorkload.contextTokens);
  return {
    sequences: Math.min(pick(given?.sequences, defaultWorkload.sequences), workloadMax.sequences),
    contextTokens: Math.min(contextTokens, model.maxPositions),
    prefillChunk: Math.min(
      pick(given?.prefillChunk, defaultWorkload.prefillChunk),
      workloadMax.prefillChunk,
    ),
    outputTokens: pick(given?.outputTokens, defaultWorkload.outputTokens),
    ...(given?.allowRemoteKv === true ? { allowRemoteKv: true } : {}),
  };
}

/** What the engines of a deployment over so many ranks, at most, are to be for. */
export function reservedForOf(
  request: DeploymentRequest,
  model: ModelSpec,
  ranks: number,
): ReservedFor {
  const workload = workloadOf(request, model);
  const numerics = request.numerics === 'fast' ? 'fast' : 'exact';
  const lends = workload.allowRemoteKv === true;
  return { model, ...engineSizesOf(workload), numerics, lends, ranks };
}

/** A worker's device as a plan needs it. */
export function profiledDevice(
  { id, device }: Pick<GroupWorker, 'id' | 'device'>,
  { decode, prefill }: Pick<ProfileRun['fit'], 'decode' | 'prefill'>,
  link: LinkLine,
  reserved: ReservedFor,
): ProfiledDevice {
  return {
    id,
    // One whose memory is all taken has no room for anything, which is no reason not to plan over the others: inputs are above 0.
    memoryBytes: Math.max(1, device.memoryFreeBytes),
    reservedBytes: reservedBytesOf(reserved, device.kind),
    decode,
    prefill,
    link,
    hostMemoryBytes: device.hostMemoryBytes,
    loanBlockTokens: device.kind === 'cuda' ? gpuLoanBlockTokens : loanBlockTokens,
  };
}

/** `settles`: for fewer sequences at once than the deployment is for, if need be. */
export function planRequestFor(
  epoch: number,
  request: DeploymentRequest,
  files: ServedFiles,
  devices: readonly ProfiledDevice[],
  settles: boolean,
): PlanRequest {
  const model = files.spec;
  const reserved = reservedForOf(request, model, devices.length);
  const { numerics, stepTokensMax, sequencesMax } = reserved;
  const { kvPolicy = 'evict' } = request;
  return {
    epoch,
    modelId: files.modelId,
    modelPath: files.directory,
    modelDigest: files.digest,
    model,
    devices,
    workload: workloadOf(request, model),
    policy: policyOf(request),
    manual: request.ranks,
    numerics,
    stepTokensMax,
    sequencesMax,
    kvBlockTokens,
    parks: kvPolicy === 'evict',
    settles,
  };
}

/** `reserved`: what their engines are to be for. */
export async function describeDevices(
  workers: readonly GroupWorker[],
  profiles: ReadonlyMap<string, ProfileRun>,
  links: ReadonlyMap<string, LinkLine>,
  reserved: ReservedFor,
): Promise<ProfiledDevice[]> {
  return await Promise.all(
    workers.map(async (worker) => {
      const described = await worker.client.describe();
      const profile = profiles.get(worker.id);
      const link = links.get(worker.id);
      if (profile === undefined || link === undefined || described.device === null) {
        throw new HelsError('internal', `worker '${worker.id}' was not profiled`);
      }
      const { device } = described;
      return profiledDevice({ id: worker.id, device }, profile.fit, link, reserved);
    }),
  );
}

/**
 * Those that a plan can count on. What they hold for an epoch of which nobody told them the end, of an earlier controller even, is freed:
 * it would lack in the plan. One that has died and is not missed yet shows here; of one that is late its heartbeats tell whether it lives.
 */
export async function workersThere(
  count: number,
  fence: Fence__Output,
  ports: Pick<RunPorts, 'workers' | 'unreachable'>,
): Promise<GroupWorker[]> {
  const workers = await ports.workers(count);
  const { unreachable, late } = await releaseRanks(workers, fence);
  if (unreachable.length + late.length === 0) return workers;
  ports.unreachable(unreachable);
  const others = await ports.workers(count);
  const asked = new Set(workers.map(({ incarnation }) => incarnation));
  await releaseRanks(
    others.filter(({ incarnation }) => !asked.has(incarnation)),
    fence,
  );
  return others;
}

/** `corrections`: of a trial over the same workers, if there was one. */
export async function runDeployment(
  epoch: number,
  term: number,
  request: DeploymentRequest,
  files: ServedFiles,
  corrections: Corrections | null,
  ports: RunPorts,
): Promise<LoadedGroup> {
  const fence = { term, epoch };
  ports.phase('waiting')(`for ${request.workersMin} workers`, 0);
  const workers = await workersThere(request.workersMin, fence, ports);

  const profiling = ports.phase('profiling');
  const model = files.spec;
  const sizes = engineSizesOf(workloadOf(request, model));
  const options = { model, ...sizes, fence, refresh: false, smallerToo: ports.unattended };
  const profiles = await profileWorkers(workers, options, ports, profiling);
  const links = await probeLinks(workers, options, ports, profiling);

  ports.phase('planning')(corrections?.reason ?? 'solving the split', 0);
  const reserved = reservedForOf(request, model, workers.length);
  const devices = await describeDevices(workers, profiles, links, reserved);
  const corrected = correctDevices(devices, corrections);
  const planRequest = planRequestFor(epoch, request, files, corrected, ports.unattended);
  const made = makePlan(planRequest, ports.nowMs);
  const { shardPlan } = made;
  const notes = [
    strayTokensNote(files.text),
    settledNote(made, planRequest),
    parkingNote(shardPlan, planRequest),
  ];
  for (const note of notes) {
    if (note !== null) ports.phase('planning')(note, 1);
  }
  const chosen = shardPlan.ranks.flatMap(
    ({ workerId }) => workers.find(({ id }) => id === workerId) ?? [],
  );
  ports.membersChosen(chosen);
  await ports.savePlan(shardPlan);

  const prepared = await prepareRanks(chosen, shardPlan, fence, ports.phase('loading'));
  ports.phase('connecting')(`forming the collective of ${chosen.length} ranks`, 0);
  const startMs = ports.nowMs();
  const { fingerprints } = await connectRanks(chosen, shardPlan, fence, prepared, null);
  const connectSeconds = (ports.nowMs() - startMs) / 1000;
  const numericsClass = numericsClassOf(shardPlan, fingerprints);
  return {
    ...made,
    planRequest,
    profiledSizes: sizes,
    connectSeconds,
    loadRates: loadRatesOf(chosen, prepared, new Map()),
    candidates: workers,
    workers: chosen,
    prepared,
    profiles,
    trialRatios: applicable(devices, corrections)?.ratios ?? new Map(),
    leftOut: devices.filter(({ id }) => corrected.every((one) => one.id !== id)),
    fingerprints,
    numericsClass,
    weightsDigest: files.weightsDigest,
  };
}
