import type { LoanPlan } from './kv-loans.ts';
import { ringPasses } from './link-seconds.ts';
import { GroupStep, phasesOf } from './lockstep.ts';
import type { Counts, Problem, ProblemDevice, Share } from './problem.ts';
import { remoteSecondsOf } from './remote-kv.ts';
import { isUsed, weightBytes } from './share-bytes.ts';
import type { StepLine } from './step-lines.ts';

/** Seconds of a share: the maximum over the device's lines, link not included. */
export function linesSeconds(lines: readonly StepLine[], share: Share): number {
  let seconds = 0;
  for (const line of lines) {
    const value =
      line.constant +
      line.perHeadGroup * share.headGroups +
      line.perColumn * share.ffnColumns +
      line.perRow * share.vocabRows;
    if (value > seconds) seconds = value;
  }
  return seconds;
}

/**
 * Shares of a split. Ranges follow the device order, so the last device with FFN columns gets the last granule, which is short when
 * the granule does not divide the columns.
 */
export function sharesOf(problem: Problem, counts: Counts): Share[] {
  let granule = 0;
  return problem.devices.map((_, index) => {
    const begin = Math.min(granule * problem.granuleColumns, problem.ffnColumns);
    granule += counts.granules[index] ?? 0;
    const end = Math.min(granule * problem.granuleColumns, problem.ffnColumns);
    return {
      headGroups: counts.headGroups[index] ?? 0,
      ffnColumns: end - begin,
      vocabRows: counts.vocabRows[index] ?? 0,
    };
  });
}

/** Tokens of KV that fit beside the weights; null when the share has no heads and so holds no KV. */
export function kvTokensOf(problem: Problem, device: ProblemDevice, share: Share): number | null {
  if (share.headGroups === 0) return null;
  const room = device.roomBytes - weightBytes(problem, share);
  const perToken = problem.footprint.kvPerTokenHeadGroup * share.headGroups;
  return Math.max(0, Math.floor(room / perToken));
}

/** True when weights and the KV that must be resident there fit the device. */
export function fitsMemory(problem: Problem, device: ProblemDevice, share: Share): boolean {
  const kv = problem.residentTokens * problem.footprint.kvPerTokenHeadGroup * share.headGroups;
  return weightBytes(problem, share) + kv <= device.roomBytes;
}

export interface Evaluation {
  readonly shares: readonly Share[];
  readonly feasible: boolean;
  /** Of the slowest used device, link included; in lockstep the sum over the phases of the slowest device of each. */
  readonly decodeSeconds: number;
  readonly prefillSeconds: number;
  /** Decode seconds by device, link included; 0 for an unused one. */
  readonly deviceSeconds: readonly number[];
}

/** Step time and feasibility of a split. */
export function evaluate(problem: Problem, counts: Counts): Evaluation {
  return evaluateShares(problem, sharesOf(problem, counts));
}

/** Passes of the ring that a plan of so many devices saves against one of all. */
function sparedPasses({ devices }: Problem, participants: number): number {
  return ringPasses(Math.max(2, devices.length)) - ringPasses(Math.max(2, participants));
}

/** Decode seconds on the link of a device when so many take part. */
export function decodeLinkSeconds(
  problem: Problem,
  device: ProblemDevice,
  participants: number,
): number {
  if (participants < 2) return 0;
  return device.decodeLink - device.decodeRing * sparedPasses(problem, participants);
}

/** The same of shares by device, in the order of `problem.devices`. `loans`: those of the plan; absent: just enough for the workload. */
export function evaluateShares(
  problem: Problem,
  shares: readonly Share[],
  loans?: LoanPlan,
): Evaluation {
  let participants = 0;
  for (const share of shares) if (isUsed(share)) participants += 1;
  const locked = problem.lockstep && participants > 1;
  const decodeStep = new GroupStep();
  const prefillStep = new GroupStep();
  const spared = sparedPasses(problem, participants);
  const deviceSeconds: number[] = [];
  let decodeSeconds = 0;
  let prefillSeconds = 0;
  const remote = remoteSecondsOf(problem, shares, loans);
  let feasible = remote?.fits ?? true;
  for (const [index, device] of problem.devices.entries()) {
    const share = shares[index] as Share;
    if (!isUsed(share)) {
      deviceSeconds.push(0);
      continue;
    }
    let decodeLink = 0;
    let prefillLink = 0;
    if (participants > 1) {
      decodeLink = device.decodeLink - device.decodeRing * spared;
      prefillLink = device.prefillLink - device.prefillRing * spared;
    }
    const remoteAttention = remote?.attention[index] ?? 0;
    decodeLink += remote?.link[index] ?? 0;
    const decode = linesSeconds(device.decode, share) + remoteAttention + decodeLink;
    const prefill = linesSeconds(device.prefill, share) + prefillLink;
    deviceSeconds.push(decode);
    decodeSeconds = Math.max(decodeSeconds, decode);
    prefillSeconds = Math.max(prefillSeconds, prefill);
    feasible &&= fitsMemory(problem, device, share);
    if (!locked) continue;
    const phases = phasesOf(device.decode, share);
    const attention = Math.max(0, phases.attention + remoteAttention);
    decodeStep.add({ ...phases, attention }, decodeLink);
    prefillStep.add(phasesOf(device.prefill, share), prefillLink);
  }
  if (locked) {
    decodeSeconds = decodeStep.seconds(true);
    prefillSeconds = prefillStep.seconds(true);
  }
  return { shares, feasible, decodeSeconds, prefillSeconds, deviceSeconds };
}

/** A split with its evaluation. */
export interface Candidate {
  readonly counts: Counts;
  readonly evaluation: Evaluation;
}

export function candidateOf(problem: Problem, counts: Counts): Candidate {
  return { counts, evaluation: evaluate(problem, counts) };
}

/** The faster feasible candidate: decode seconds first, prefill seconds between equals. */
export function better(first: Candidate | null, second: Candidate | null): Candidate | null {
  if (first === null || !first.evaluation.feasible) {
    return second?.evaluation.feasible === true ? second : null;
  }
  if (second === null || !second.evaluation.feasible) return first;
  const difference = second.evaluation.decodeSeconds - first.evaluation.decodeSeconds;
  if (difference !== 0) return difference < 0 ? second : first;
  return second.evaluation.prefillSeconds < first.evaluation.prefillSeconds ? second : first;
}
