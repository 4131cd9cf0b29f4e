/** The split of a deployment's policy, or one given by hand, for its workload. Pure apart from timing the solver. */
import { HelsError } from '../../proto/domain/errors.ts';
import { gpuLoanBlockTokens } from '../../proto/domain/kv-residency.ts';
import type { PlanInput, PlanOutput } from '../../proto/domain/plan.ts';
import { largestBatch } from '../planner/batch-search.ts';
import { plan } from '../planner/plan.ts';
import { planFromCounts } from '../planner/plan-from-counts.ts';
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
      `ranks: worker '${unknown.workerId}' is not registered, or it is silent or drained (helsctl get workers); a plan may use ${known}`,
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

interface SolveRequest {
  /** Empty: the policy decides. */
  readonly manual: readonly ManualRank[];
  readonly devices: readonly ProfiledDevice[];
  /** Of a plan whose KV lies with its heads. */
  readonly kvBlockTokens: number;
  /** KV may wait in host memory that somebody gave. */
  readonly parks: boolean;
  /** Fewer sequences at once than asked for are better than none. */
  readonly settles: boolean;
}

interface SolvedPlan {
  readonly solved: Solved;
  /** The workload whose KV the plan holds at once. */
  readonly input: PlanInput;
  /** Why that is not all of the workload, where the rest must find host memory; null: it is, or need not. */
  readonly refusal: string | null;
}

/** The same for the most sequences, in whole blocks, that `most` finds room for; null: not even one. */
function withFewer(
  input: PlanInput,
  blockTokens: number,
  most: (whole: PlanInput) => number,
): PlanInput | null {
  const contextTokens = Math.ceil(input.workload.contextTokens / blockTokens) * blockTokens;
  const whole = { ...input, workload: { ...input.workload, contextTokens } };
  const sequences = Math.min(input.workload.sequences, most(whole));
  return sequences < 1 ? null : { ...whole, workload: { ...whole.workload, sequences } };
}

const mostOfPolicy = (input: PlanInput) =>
  largestBatch(input, input.policy ?? 'hels')?.sequences ?? 0;

const mostOf =
  ({ predicted }: Solved) =>
  (input: PlanInput) =>
    Math.floor(predicted.kvTokensTotal / input.workload.contextTokens);

/**
 * With all of the workload's KV resident. Where no split holds that, and the rest may wait in host memory or something must serve: with as
 * many of its sequences at once as any split of the policy holds. Those that wait do not generate, so the most at once is the most tokens a
 * second, but for steps that grow with them; what a split by hand holds is what it is, and the plan is for as many as that.
 */
export function solvePlan(
  input: PlanInput,
  request: SolveRequest,
  nowMs: () => number,
): SolvedPlan {
  const { manual, devices, parks, settles, kvBlockTokens } = request;
  const solve = (one: PlanInput): Solved =>
    manual.length > 0 ? solveManual(one, manual) : plan(one, nowMs);
  const resident = solve(input);
  const refused = { solved: resident, input, refusal: null };
  const hasHost = devices.some(({ hostMemoryBytes = 0 }) => hostMemoryBytes > 0);
  if (resident.feasible || !(settles || (parks && hasHost))) return refused;
  const refusal = settles ? null : (resident.reason ?? 'unknown reason');
  // GPUs that lend park nothing, and the rest is to wait.
  const lendsOnGpu = input.loanBlockTokens === gpuLoanBlockTokens && parks && hasHost;
  const waiting = lendsOnGpu
    ? { ...input, workload: { ...input.workload, allowRemoteKv: false } }
    : input;
  if (manual.length > 0) {
    const workload = { ...waiting.workload, allowEviction: true };
    const byHand = solve({ ...waiting, workload });
    if (!byHand.feasible) return refused;
    const fewer = withFewer(waiting, kvBlockTokens, mostOf(byHand));
    return { solved: byHand, input: fewer ?? waiting, refusal };
  }
  const fewer = withFewer(waiting, kvBlockTokens, mostOfPolicy);
  return fewer === null ? refused : { solved: solve(fewer), input: fewer, refusal };
}
