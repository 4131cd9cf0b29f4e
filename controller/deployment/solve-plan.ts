/** The split of a deployment's policy, or one given by hand, for its workload. Pure apart from timing the solver. */
import { HelsError } from '../../proto/domain/errors.ts';
import type { PlanInput, PlanOutput } from '../../proto/domain/plan.ts';
import { largestBatch } from '../planner/batch-search.ts';
import { plan } from '../planner/plan.ts';
import { planFromCounts } from '../planner/plan-from-counts.ts';
import { footprintOf } from '../planner/problem.ts';
import type { ProfiledDevice } from '../profiler/plan-input.ts';

export interface ManualRank {
  workerId: string;
  headGroups: number;
  ffnWeight: number;
}

type Solved = Pick<PlanOutput, 'feasible' | 'reason' | 'ranks' | 'predicted' | 'kvLoans'>;

function solveManual(input: PlanInput, manual: readonly ManualRank[]): Solved {
  const unknown = manual.find((rank) => !input.devices.some(({ id }) => id === rank.workerId));
  if (unknown !== undefined) {
    const known = input.devices.map(({ id }) => id).join(', ');
    throw new HelsError(
      'config-invalid',
      `ranks: worker '${unknown.workerId}' is not registered; the workers are ${known}`,
      { field: 'ranks' },
    );
  }
  const twice = manual.find(({ workerId }, index) =>
    manual.slice(0, index).some((earlier) => earlier.workerId === workerId),
  );
  if (twice !== undefined) {
    throw new HelsError(
      'config-invalid',
      `ranks: worker '${twice.workerId}' is named twice; give each worker one entry`,
      { field: 'ranks' },
    );
  }
  // A rank of a split by hand takes part even with nothing to compute; other devices stay out.
  const share = (id: string) => manual.find((rank) => rank.workerId === id);
  const devices = input.devices.filter(({ id }) => share(id) !== undefined);
  return planFromCounts(
    { ...input, devices },
    {
      headGroups: devices.map(({ id }) => share(id)?.headGroups ?? 0),
      ffnWeights: devices.map(({ id }) => share(id)?.ffnWeight ?? 0),
    },
  );
}

/** The same workload, where KV that has no room waits in host memory at the price of moving it. A split by hand has no choice, so no price. */
function withEviction(input: PlanInput, { manual, devices }: SolveRequest): PlanInput {
  const workload = { ...input.workload, allowEviction: true };
  if (manual.length > 0) return { ...input, workload };
  const bytes = footprintOf(input.model).kvPerTokenHeadGroup;
  const speeds = new Map(devices.map(({ id, copyBytesPerSecond = 0 }) => [id, copyBytesPerSecond]));
  const priced = input.devices.map((device) => {
    const speed = speeds.get(device.id) ?? 0;
    if (speed === 0) return device;
    return { ...device, restore: { reloadSecondsPerTokenHeadGroup: bytes / speed } };
  });
  return { ...input, workload, devices: priced };
}

interface SolveRequest {
  /** Empty: the policy decides. */
  readonly manual: readonly ManualRank[];
  readonly devices: readonly ProfiledDevice[];
  /** KV may wait in host memory that somebody gave. */
  readonly parks: boolean;
  /** Fewer sequences than asked for are better than none. */
  readonly settles: boolean;
}

interface SolvedPlan {
  readonly solved: Solved;
  /** The workload that it holds, with all KV resident. */
  readonly input: PlanInput;
  /** Why not all KV of the workload is resident, where the rest must find host memory; null: all is. */
  readonly refusal: string | null;
}

/** The same for the most sequences that the policy has a split for; null: not even one. */
function withFewer(input: PlanInput): PlanInput | null {
  const most = largestBatch(input, input.policy ?? 'hels');
  if (most === null) return null;
  return { ...input, workload: { ...input.workload, sequences: most.sequences } };
}

/**
 * With all of the workload's KV resident. Where no split holds that and KV may wait, with as much of it resident as is best; and where that
 * does not help, but something must serve, for fewer sequences.
 */
export function solvePlan(
  input: PlanInput,
  request: SolveRequest,
  nowMs: () => number,
): SolvedPlan {
  const { manual, devices, parks, settles } = request;
  const solve = (one: PlanInput): Solved =>
    manual.length > 0 ? solveManual(one, manual) : plan(one, nowMs);
  const resident = solve(input);
  const refused = { solved: resident, input, refusal: null };
  if (resident.feasible) return refused;
  if (parks && devices.some(({ hostMemoryBytes = 0 }) => hostMemoryBytes > 0)) {
    const evicting = solve(withEviction(input, request));
    const refusal = settles ? null : (resident.reason ?? 'unknown reason');
    if (evicting.feasible) return { solved: evicting, input, refusal };
  }
  const fewer = settles && manual.length === 0 ? withFewer(input) : null;
  return fewer === null ? refused : { solved: solve(fewer), input: fewer, refusal: null };
}
