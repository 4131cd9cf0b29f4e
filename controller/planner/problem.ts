import type { PlanDevice, PlanInput, PlanModel } from '../../proto/domain/plan.ts';
import { planInputSubject, refuseField } from './checked-schema.ts';
import { evictionSecondsPerHeadGroup } from './eviction-price.ts';
import { linkSeconds } from './link-seconds.ts';
import { type RemoteKv, remoteKvOf, residentSequencesMin } from './remote-workload.ts';
import { linesAt, linkOf, type StepLine } from './step-lines.ts';

/** A device at the workload's load. Bytes and seconds; all layers. */
export interface ProblemDevice {
  readonly id: string;
  readonly decode: readonly StepLine[];
  readonly prefill: readonly StepLine[];
  /** Link seconds of one step with all devices of the problem; paid only when more than one device is used. */
  readonly decodeLink: number;
  readonly prefillLink: number;
  /** Part of them that a ring of fewer devices pays less of; per pass (`ringPasses`). */
  readonly decodeRing: number;
  readonly prefillRing: number;
  /** In the decode lines, for each head group: moving KV that is not resident. */
  readonly evictionPerHeadGroup: number;
  /** Memory for weights and KV: memoryBytes - reservedBytes, at least 0. */
  readonly roomBytes: number;
}

/** Memory prices, equal on every device (bytes, all layers). */
export interface Footprint {
  /** Replicated on every used device: the token embedding. */
  readonly fixed: number;
  readonly perHeadGroup: number;
  readonly perColumn: number;
  readonly perRow: number;
  /** KV of one token of one head group. */
  readonly kvPerTokenHeadGroup: number;
}

/** What one device is given. */
export interface Share {
  readonly headGroups: number;
  readonly ffnColumns: number;
  readonly vocabRows: number;
}

/** The plan input compiled to numbers for one workload: what every policy works on. */
export interface Problem {
  readonly devices: readonly ProblemDevice[];
  readonly footprint: Footprint;
  readonly headGroups: number;
  readonly ffnColumns: number;
  readonly granuleColumns: number;
  /** ceil(ffnColumns / granuleColumns): the last granule is what remains. */
  readonly granules: number;
  readonly vocabRows: number;
  /** Tokens whose KV must be resident on every rank with heads; 0 when KV may lie on other ranks. */
  readonly residentTokens: number;
  /** What KV on other ranks needs and costs; null: it may not lie there. */
  readonly remote: RemoteKv | null;
  /** Ranks meet after every phase of a layer, not once a step. */
  readonly lockstep: boolean;
}

/** The same workload with all KV on the device of its heads. */
export function withoutLoans(problem: Problem): Problem {
  const { remote, residentTokens } = problem;
  return { ...problem, remote: null, residentTokens: remote?.residentTokens ?? residentTokens };
}

/** The same for the formula of the step: ranks meet once, and the links are those of all devices whoever takes part. */
export function formulaProblem(problem: Problem): Problem {
  if (!problem.lockstep) return problem;
  const devices = problem.devices.map((device) => ({ ...device, decodeRing: 0, prefillRing: 0 }));
  // What is found must hold the KV all the same: whoever takes it over evaluates it by the problem itself.
  return { ...problem, devices, lockstep: false, remote: null };
}

/** A split: units per device, in the order of `Problem.devices`. Sums are headGroups, granules and vocabRows. */
export interface Counts {
  readonly headGroups: readonly number[];
  readonly granules: readonly number[];
  readonly vocabRows: readonly number[];
}

/** Bytes of weights and KV by unit (design section 6). */
export function footprintOf(model: PlanModel): Footprint {
  const { layers, hiddenSize, headDim, weightBytesPerParam } = model;
  const attentionMatrices = 2 * model.queryHeadsPerGroup + 2;
  return {
    fixed: model.vocabRows * hiddenSize * (model.embeddingBytesPerParam ?? weightBytesPerParam),
    perHeadGroup: layers * hiddenSize * headDim * attentionMatrices * weightBytesPerParam,
    perColumn: layers * model.ffnMatrices * hiddenSize * weightBytesPerParam,
    perRow: hiddenSize * (model.headBytesPerParam ?? weightBytesPerParam),
    kvPerTokenHeadGroup: layers * 2 * headDim * model.kvBytesPerElement,
  };
}

function compileDevice(device: PlanDevice, input: PlanInput, eviction: number): ProblemDevice {
  const { sequences, contextTokens, prefillChunk } = input.workload;
  const link = linkOf(device, input);
  const ring = link.perTokenRing ?? 0;
  const most = Math.max(2, input.devices.length);
  // The chunk starts a prompt: token i of it attends to i tokens, itself included.
  const prefillContext = (prefillChunk * (prefillChunk + 1)) / 2;
  return {
    id: device.id,
    decode: linesAt(device.decode, sequences, sequences * contextTokens).map((line) => ({
      ...line,
      perHeadGroup: line.perHeadGroup + eviction,
    })),
    evictionPerHeadGroup: eviction,
    prefill: linesAt(device.prefill, prefillChunk, prefillContext),
    decodeLink: linkSeconds(link, sequences, most),
    prefillLink: linkSeconds(link, prefillChunk, most),
    decodeRing: ring * sequences,
    prefillRing: ring * prefillChunk,
    roomBytes: Math.max(0, device.memoryBytes - device.reservedBytes),
  };
}

/** Seconds of the whole model on one device, if not 0: beyond these the search's arithmetic overflows or never settles. */
const modelSecondsMin = 1e-12;
const modelSecondsMax = 1e12;

/** Refuses lines that cannot be seconds of a step. */
function checkSeconds(device: ProblemDevice, index: number, model: PlanModel): void {
  const { headGroups, ffnColumns, vocabRows } = model;
  for (const phase of ['decode', 'prefill'] as const) {
    for (const line of device[phase]) {
      const seconds =
        line.constant +
        line.perHeadGroup * headGroups +
        line.perColumn * ffnColumns +
        line.perRow * vocabRows;
      if (seconds === 0 || (seconds >= modelSecondsMin && seconds <= modelSecondsMax)) continue;
      refuseField(
        planInputSubject,
        `devices[${index}].${phase}`,
        `gives ${seconds} seconds for the whole model; it must be 0 or from ${modelSecondsMin} to ${modelSecondsMax}, with coefficients in seconds`,
      );
    }
  }
}

/**
 * Compiles a checked input. `residentSequences`: of so many the KV is resident, and moving that of the others is in the decode lines;
 * absent: of as few as the workload allows, moves unpriced. Throws config-invalid for lines that cannot be seconds of a step.
 */
export function compileProblem(input: PlanInput, residentSequences?: number): Problem {
  const { model, workload } = input;
  const resident = residentSequences ?? residentSequencesMin(input);
  const devices = input.devices.map((device) => {
    const priced = residentSequences ?? workload.sequences;
    return compileDevice(device, input, evictionSecondsPerHeadGroup(device, workload, priced));
  });
  for (const [index, device] of devices.entries()) checkSeconds(device, index, model);
  const remote = remoteKvOf(input, resident);
  return {
    devices,
    footprint: footprintOf(model),
    headGroups: model.headGroups,
    ffnColumns: model.ffnColumns,
    granuleColumns: model.ffnGranule,
    granules: Math.ceil(model.ffnColumns / model.ffnGranule),
    vocabRows: model.vocabRows,
    residentTokens: remote === null ? resident * workload.contextTokens : 0,
    remote,
    lockstep: input.objective === 'lockstep',
  };
}
