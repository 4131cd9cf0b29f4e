/** `helsctl plan --apply`: plans anew for the model being served and moves the running requests to that plan. */
import { formatBytes } from '../../proto/domain/device.ts';
import { planPolicies } from '../../proto/domain/plan.ts';
import {
  type DrainEvent,
  type HelsClient,
  HelsError,
  type PlanReport,
  type ReplanEvent,
  type ReplanOptions,
} from '../sdk/index.ts';
import { milestones } from './deploy-progress.ts';
import { formatMilliseconds, formatTable, type Output } from './output.ts';
import { parseRanks } from './parse-ranks.ts';
import { formatPlan } from './plan-table.ts';
import { parseWorkload, type WorkloadOptions } from './workload-options.ts';

/** As commander gives them. */
export interface ApplyOptions extends WorkloadOptions {
  policy?: string;
  ranks?: string;
}

type Proposal = Extract<ReplanEvent, { type: 'proposal' }>;
type Done = Extract<ReplanEvent, { type: 'done' }>;
type Replan = NonNullable<Done['replan']>;

/** Throws usage for values that cannot be. */
export function replanOptions(options: ApplyOptions): ReplanOptions {
  const { policy, ranks } = options;
  const known = planPolicies.find((candidate) => candidate === policy);
  if (policy !== undefined && known === undefined) {
    throw new HelsError('usage', `--policy: '${policy}' is not one of ${planPolicies.join(', ')}`);
  }
  if (policy !== undefined && ranks !== undefined) {
    throw new HelsError('usage', '--ranks: --policy is given too; give one of the two');
  }
  return {
    ...(known === undefined ? {} : { policy: known }),
    ...(ranks === undefined ? {} : { ranks: parseRanks(ranks) }),
    workload: parseWorkload(options),
  };
}

const seconds = (value: number) => `${value.toFixed(value < 10 ? 2 : 0)} s`;
const widthOf = (range: { begin: number; end: number } | null) =>
  range === null ? 0 : range.end - range.begin;

const idsOf = (plan: Proposal['plan']) => plan?.ranks.map(({ workerId }) => workerId) ?? [];

/** Workers that only the plan of before has. */
function leaving(current: Proposal['current'], plan: Proposal['plan']): string {
  const staying = idsOf(plan);
  return idsOf(current)
    .filter((workerId) => !staying.includes(workerId))
    .join(', ');
}

/** What each worker has and would have, and what the change should bring and cost. */
export function formatProposal({ current, plan, equal, ...proposal }: Proposal): string {
  const rows = [...new Set([current, plan].flatMap(idsOf))].map((workerId) => {
    const [has, gets] = [current, plan].map((one) =>
      one?.ranks.find((rank) => rank.workerId === workerId),
    );
    const change = (from: number, to: number) => `${from} -> ${to}`;
    return [
      workerId,
      change(widthOf(has?.headGroups ?? null), widthOf(gets?.headGroups ?? null)),
      change(widthOf(has?.ffnColumns ?? null), widthOf(gets?.ffnColumns ?? null)),
      change(widthOf(has?.vocabRows ?? null), widthOf(gets?.vocabRows ?? null)),
    ];
  });
  const table = formatTable(['worker', 'head groups', 'FFN columns', 'vocabulary rows'], rows);
  if (equal) return `${table}\nthe plan is as it would be made now`;
  const { currentDecodeSeconds, plannedDecodeSeconds, predicted } = proposal;
  const percent = 100 * (1 - plannedDecodeSeconds / currentDecodeSeconds);
  const gain =
    currentDecodeSeconds > 0
      ? `, ${Math.abs(percent).toFixed(0)} % ${percent < 0 ? 'more' : 'less'}`
      : '';
  const planned = formatMilliseconds(plannedDecodeSeconds);
  // A split over a worker that may no longer be used has no step.
  const step = Number.isFinite(currentDecodeSeconds)
    ? `a decode step should take ${planned} instead of ${formatMilliseconds(currentDecodeSeconds)}${gain}`
    : `decode step without ${leaving(current, plan)}: ${planned}`;
  if (predicted === null) return `${table}\n${step}`;
  const { weightBytes, kvBytes, replaySeconds } = predicted;
  const kv =
    kvBytes > 0
      ? `, ${formatBytes(kvBytes)} of KV to move`
      : `, ${seconds(replaySeconds)} of computing again`;
  return `${table}\n${step}; pause of ${seconds(predicted.seconds)}: ${formatBytes(weightBytes)} to load${kv}`;
}

/** The plan that serves, and what became of the requests. */
export function formatMove(report: PlanReport, replan: Replan): string {
  const { pauseSeconds, predicted, sequences, kv, replayedTokens, kvBytesMoved } = replan;
  const moved = kv === 'migrated' ? [`${formatBytes(kvBytesMoved)} of KV moved`] : [];
  const again = replayedTokens > 0 || kv !== 'migrated';
  const how = [...moved, ...(again ? [`${replayedTokens} tokens computed again`] : [])].join(', ');
  const loaded = `${formatBytes(replan.weightBytesLoaded)} loaded, ${formatBytes(replan.weightBytesAdopted)} taken over`;
  return `${formatPlan(report)}\n${sequences} requests went on, ${how}; ${loaded}; pause ${seconds(pauseSeconds)}, predicted ${seconds(predicted?.seconds ?? 0)}`;
}

function formatDone({ replan, report }: Done): string {
  if (replan !== null) return formatMove(report, replan);
  return `${formatPlan(report)}\nwhat serves stays as it is; what was asked for is kept with the deployment`;
}

/** Shows the proposal and the way of a move; resolves to how it ended. */
export async function followMove<End extends DrainEvent>(
  events: AsyncIterable<End>,
  output: Output,
): Promise<{ proposal: Proposal | null; done: Extract<End, { type: 'done' }> }> {
  const isMilestone = milestones();
  let proposal: Proposal | null = null;
  for await (const event of events) {
    if (event.type === 'proposal') {
      proposal = event;
      output.note(formatProposal(event));
    } else if (event.type === 'progress') {
      const percent = event.fraction > 0 ? ` ${Math.round(event.fraction * 100)} %` : '';
      output.progress(
        `${event.phase.padEnd(11)} ${event.message}${percent}`,
        isMilestone(`${event.phase} ${event.message}`, event.fraction),
      );
    } else {
      return { proposal, done: event as Extract<End, { type: 'done' }> };
    }
  }
  throw new HelsError('internal', 'the re-plan ended without a result');
}

export async function applyPlan(
  client: HelsClient,
  options: ReplanOptions,
  output: Output,
  signal: AbortSignal,
): Promise<void> {
  const { proposal, done } = await followMove(client.replan(options, { signal }), output);
  const { replan, report } = done;
  output.result({ applied: replan !== null, proposal, replan, report }, () => formatDone(done));
}
