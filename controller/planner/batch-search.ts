import type { PlanInput, PlannedBatch, PlanPolicy, PlanTargets } from '../../proto/domain/plan.ts';
import { compileProblem } from './problem.ts';
import { solve } from './solve.ts';

/** The plan of a policy for another number of sequences, all their KV resident; null when none fits. */
function batchOf(input: PlanInput, policy: PlanPolicy, sequences: number): PlannedBatch | null {
  const workload = { ...input.workload, sequences, allowEviction: false };
  const { best } = solve(compileProblem({ ...input, workload }), policy);
  if (best === null || !best.evaluation.feasible) return null;
  const { decodeSeconds } = best.evaluation;
  return { sequences, decodeSeconds, tokensPerSecond: sequences / decodeSeconds };
}

/** The most sequences that a workload may name. */
const sequencesMax = 2 ** 24;

/** No batch is larger: the KV that all devices together could hold if they held nothing else. */
function sequencesBound(input: PlanInput): number {
  const { devices, footprint, headGroups } = compileProblem(input);
  const room = devices.reduce((sum, device) => sum + device.roomBytes, 0);
  const tokenBytes = footprint.kvPerTokenHeadGroup * headGroups;
  const sequences = Math.floor(room / (tokenBytes * input.workload.contextTokens));
  return Math.min(sequencesMax, sequences);
}

/**
 * The largest number of sequences, each of the workload's context with all its KV resident, that the policy has a feasible plan for and that
 * `accepts`; null when there is none. Bisection: what is accepted must stay so for fewer sequences.
 */
export function largestBatch(
  input: PlanInput,
  policy: PlanPolicy,
  accepts: (batch: PlannedBatch) => boolean = () => true,
): PlannedBatch | null {
  let best: PlannedBatch | null = null;
  let low = 0;
  let high = sequencesBound(input) + 1;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    const batch = batchOf(input, policy, middle);
    if (batch !== null && accepts(batch)) {
      best = batch;
      low = middle;
    } else {
      high = middle;
    }
  }
  return best;
}

/** Batches that are tried for a throughput grow by this factor, at least by one. */
const batchGrowth = 1.1;

/**
 * The smallest batch of at least `tokensPerSecondMin`, of more than `above` sequences; null when none is found. Throughput grows with the batch, falls where memory forces
 * heads onto slow devices, and grows again: batches a tenth apart are tried, and below the first that is enough the search bisects.
 */
export function smallestBatch(
  input: PlanInput,
  policy: PlanPolicy,
  tokensPerSecondMin: number,
  above = 0,
): PlannedBatch | null {
  const largest = largestBatch(input, policy)?.sequences ?? 0;
  let low = above;
  let best: PlannedBatch | null = null;
  while (best === null && low < largest) {
    const sequences = Math.min(largest, Math.max(low + 1, Math.floor(low * batchGrowth)));
    const batch = batchOf(input, policy, sequences);
    if (batch !== null && batch.tokensPerSecond >= tokensPerSecondMin) best = batch;
    else low = sequences;
  }
  if (best === null) return null;
  while (best.sequences - low > 1) {
    const middle = Math.floor((low + best.sequences) / 2);
    const batch = batchOf(input, policy, middle);
    if (batch !== null && batch.tokensPerSecond >= tokensPerSecondMin) best = batch;
    else low = middle;
  }
  return best;
}

/** What becomes of the workload's targets; null when it names none. */
export function targetReport(input: PlanInput, policy: PlanPolicy): PlanTargets | null {
  const { stepSecondsMax, tokensPerSecondMin } = input.workload;
  if (stepSecondsMax === undefined && tokensPerSecondMin === undefined) return null;
  const targets: PlanTargets = {};
  if (stepSecondsMax !== undefined) {
    const largest = largestBatch(
      input,
      policy,
      ({ decodeSeconds }) => decodeSeconds <= stepSecondsMax,
    );
    targets.stepSecondsMax = { value: stepSecondsMax, largestBatch: largest };
  }
  if (tokensPerSecondMin !== undefined) {
    const smallest = smallestBatch(input, policy, tokensPerSecondMin);
    targets.tokensPerSecondMin = { value: tokensPerSecondMin, smallestBatch: smallest };
  }
  return targets;
}
