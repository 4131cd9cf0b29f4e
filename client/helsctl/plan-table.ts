import { formatBytes } from '../../proto/domain/device.ts';
import type { PlanReport, Status } from '../sdk/index.ts';
import { formatMilliseconds, formatTable } from './output.ts';

type DeviceStatus = Status['workers'][number]['device'];

/** "cpu 1 thread, speed 0.4 (emulated)": what a person needs to tell the devices apart. */
export function describeDevice(device: DeviceStatus): string {
  if (device === null) return '-';
  const threads = `${device.threads} thread${device.threads === 1 ? '' : 's'}`;
  const speed = device.speed < 1 ? `, speed ${device.speed}` : '';
  const label = device.emulated ? ' (emulated)' : '';
  const host =
    device.hostMemoryBytes > 0 ? ` and ${formatBytes(device.hostMemoryBytes)} of host memory` : '';
  return `${device.kind} ${threads}${speed}, ${formatBytes(device.memoryBytes)}${host}${label}`;
}

export function describeState({ state, drained }: Status['workers'][number]): string {
  return drained ? `${state}, drained` : state;
}

/** All daemons are to have one version. */
export function describeVersion(worker: Status['workers'][number], controller: string): string {
  return worker.version === controller
    ? worker.version
    : `${worker.version}, controller ${controller}`;
}

/** "mixed (other kernels on b)"; empty while nothing is served. */
export function describeNumerics({
  numericsClass,
  differingWorkers,
}: Pick<Status, 'numericsClass' | 'differingWorkers'>): string {
  if (differingWorkers.length === 0) return numericsClass;
  return `${numericsClass} (other kernels on ${differingWorkers.join(', ')})`;
}

/** KV that lies on another worker than its heads. */
function loanLines(plan: NonNullable<PlanReport['plan']>): string[] {
  const workerOf = (rank: number) => plan.ranks[rank]?.workerId ?? `rank ${rank}`;
  return plan.kvLoans.map(({ owner, holder, blocks }) => {
    const tokens = ((blocks?.end ?? 0) - (blocks?.begin ?? 0)) * plan.kvBlockTokens;
    return `KV of ${tokens} tokens for the heads of ${workerOf(owner)} lies on ${workerOf(holder)}`;
  });
}

/** The plan as people read it: what each device got, and its step time predicted and measured. */
export function formatPlan(report: PlanReport): string {
  const { plan } = report;
  if (plan === null) return 'no plan';
  const rows = plan.ranks.map((rank, index) => {
    const measured = report.ranks[index];
    const range = (r: { begin: number; end: number } | null) =>
      r === null || r.begin === r.end ? '0' : `${r.end - r.begin} [${r.begin},${r.end})`;
    return [
      rank.workerId,
      describeDevice(measured?.device ?? null),
      range(rank.headGroups),
      range(rank.ffnColumns),
      `${(rank.kvShare * 100).toFixed(1)} %`,
      formatBytes(rank.weightBytes),
      formatMilliseconds(measured?.predictedDecodeSeconds ?? 0),
      formatMilliseconds(measured?.measuredDecodeSeconds ?? 0),
    ];
  });
  const header = [
    'worker',
    'device',
    'head groups',
    'FFN columns',
    'KV share',
    'weights',
    'predicted step',
    'measured step',
  ];
  const kvTokens = plan.kvBlocks * plan.kvBlockTokens;
  const parkedTokens = plan.kvParkedBlocks * plan.kvBlockTokens;
  const parked = parkedTokens > 0 ? ` and ${parkedTokens} parked` : '';
  const summary =
    `policy ${plan.policy}, epoch ${plan.epoch}, numerics ${describeNumerics(report)}, ` +
    `room for ${kvTokens} tokens of KV${parked}, bound by ${plan.bindingConstraint}; ` +
    `at most ${plan.sequencesMax} sequences at once and ${plan.stepTokensMax} tokens a step; ` +
    `decode step of ${report.measuredSequences} sequences: predicted ` +
    `${formatMilliseconds(report.predictedDecodeSeconds)}, measured ` +
    `${formatMilliseconds(report.measuredDecodeSeconds)}, collectives included`;
  return [formatTable(header, rows), summary, ...loanLines(plan)].join('\n');
}
