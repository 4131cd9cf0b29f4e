import type { Percentiles, SimulationReport } from '../simulator/report.ts';
import type { PolicySimulation, SimulationComparison } from './simulation-comparison.ts';
import { tableText } from './table-text.ts';

const percent = (share: number): string => `${(share * 100).toFixed(0)} %`;

const secondsText = (seconds: number): string =>
  seconds < 1 ? `${(seconds * 1000).toFixed(0)} ms` : `${seconds.toFixed(2)} s`;

const ofPercentiles = ({ p50, p90, p95, p99 }: Percentiles): string[] =>
  [p50, p90, p95, p99].map(secondsText);

const loadHeader = [
  'policy',
  'completed',
  'refused',
  'failed',
  'makespan',
  'output tokens/s',
  'requests/s',
  'goodput/s',
  'within SLO',
  'KV tokens',
  'KV mean',
  'KV max',
  'preempted',
];

function loadRow({ policy }: PolicySimulation, report: SimulationReport): string[] {
  const { requests, throughput, goodput, kv } = report;
  return [
    policy,
    String(requests.completed),
    String(requests.refusedTooLong + requests.refusedOverloaded + requests.refusedNotReady),
    String(requests.failed),
    `${report.makespanSeconds.toFixed(1)} s`,
    throughput.outputTokensPerSecond.toFixed(1),
    throughput.requestsPerSecond.toFixed(3),
    goodput.requestsPerSecond.toFixed(3),
    percent(goodput.shareOfArrived),
    String(kv.tokens),
    percent(kv.meanShare),
    percent(kv.maxShare),
    String(report.preemptions),
  ];
}

const latencyHeader = [
  'policy',
  ...['TTFT', 'TPOT'].flatMap((name) => [`${name} p50`, 'p90', 'p95', 'p99']),
];

const latencyRow = ({ policy }: PolicySimulation, report: SimulationReport): string[] => [
  policy,
  ...ofPercentiles(report.ttftSeconds),
  ...ofPercentiles(report.tpotSeconds),
];

function idleText({ policy }: PolicySimulation, report: SimulationReport): string {
  const ranks = report.ranks.map(({ device, idleShare }) => `${device} ${percent(idleShare)}`);
  return `${policy}: waiting for slower ranks: ${ranks.join(', ')}`;
}

/** Policies side by side, for people. */
export function simulationTable(comparison: SimulationComparison): string {
  const { trace, limits, policies } = comparison;
  const served = policies.flatMap((policy) =>
    policy.report === null ? [] : [{ policy, report: policy.report }],
  );
  const level = served[0]?.report.goodput;
  const lines = [
    `${trace.requests} requests over ${trace.seconds.toFixed(1)} s, ${trace.promptTokens} prompt and ${trace.outputTokens} output tokens; ` +
      `at most ${limits.sequencesMax} sequences and ${limits.stepTokensMax} tokens a step`,
    ...(level === undefined
      ? []
      : [`SLO: TTFT ${secondsText(level.ttftSeconds)}, TPOT ${secondsText(level.tpotSeconds)}`]),
    tableText([loadHeader, ...served.map(({ policy, report }) => loadRow(policy, report))]),
    tableText([latencyHeader, ...served.map(({ policy, report }) => latencyRow(policy, report))]),
    ...served.map(({ policy, report }) => idleText(policy, report)),
    ...policies.flatMap(({ policy, report, reason }) => {
      if (reason === null) return [];
      return [
        report === null
          ? reason
          : `${policy}: served with the KV room there is; planned load: ${reason}`,
      ];
    }),
  ];
  return `${lines.join('\n')}\n`;
}
